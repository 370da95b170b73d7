"""From a plan to a job script."""
