"""A training step as one compiled function."""
