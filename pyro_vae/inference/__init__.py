"""Runs of a pair of Pyro programs under particles, and the log-weights that they yield."""
