"""Models as files that hold data alone."""
