"""Models as files that hold nothing but data.

`files` writes and reads tensors and plain values, `description` turns a model and its parts into plain values and back,
and `limits` bounds what a description can ask for. `pyro_vae.loading` reads whole models.
"""
