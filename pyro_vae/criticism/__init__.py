"""Judging a fitted model: against data, against another model, or against another algorithm.

`checks` compares data with replicated data by `statistics`, `comparison` compares models, `contrasts` levels of a
field, `calibration` the guide with the posterior, `classification` labels with those that a model gives. `latents` and
`disentanglement` ask what the latents hold, `diagnosis` asks all of these at once, and `arviz` exports draws.
"""
