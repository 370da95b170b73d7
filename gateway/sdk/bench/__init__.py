"""Benchmarks of a session through `/v1`: the load, the saved report, its page, and the comparison of runs."""
