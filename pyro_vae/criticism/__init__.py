"""Criticism of a fitted model: calibration, predictive checks, comparison, latents, and a report on all of them."""
