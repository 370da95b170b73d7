"""A real Slurm cluster with Apptainer on one Linux machine, its hosts made of namespaces: `sluice cluster`."""

from gateway.cluster.cluster import Cluster
from gateway.cluster.lifecycle import end
from gateway.cluster.record import all_names
from gateway.cluster.spec import Spec, parse_gpus

__all__ = ["Cluster", "Spec", "all_names", "end", "parse_gpus"]
