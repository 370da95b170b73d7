"""What we measure, each a command: `python -m benchmarks.run`, ratios against the raw thing in the same run."""
