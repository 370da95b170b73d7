"""The command line; the only place that puts processes together."""
