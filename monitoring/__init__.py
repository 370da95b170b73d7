"""The monitoring service (8003): Slurm, GPU and session metrics for Prometheus."""
