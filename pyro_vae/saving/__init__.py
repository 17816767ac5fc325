"""Save models as files that contain data and no code."""
