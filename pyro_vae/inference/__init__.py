"""Programs run under particles, and the log-weights they leave."""
