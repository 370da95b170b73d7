"""What is bounded in the same way everywhere. What a site may choose is in `serve.connection` of the settings."""

LONGEST_HEAD = 1 << 16
"""Bytes of the status line and headers of a service's answer."""

MOST_HEADERS = 128
SWEEP_SECONDS = 1.0
LINGER_SECONDS = 2.0
"""How long who was refused is read on, that it gets its answer."""
