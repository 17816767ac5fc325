"""Questions about a fitted model: calibration, checks, comparison, latents."""
