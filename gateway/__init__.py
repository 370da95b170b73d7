"""Sluice: a Slurm-centric HPC gateway."""
