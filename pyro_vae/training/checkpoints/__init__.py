"""Checkpoints: a run that can be killed and goes on."""
