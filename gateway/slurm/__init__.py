"""The ways to Slurm: what is said (commands, REST) times how it travels."""
