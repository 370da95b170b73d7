"""The ways to Slurm: what is said (commands, REST) times how it travels."""

from gateway.slurm.connect import Backend, connect

__all__ = ["Backend", "connect"]
