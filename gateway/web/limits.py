"""What one connection may ask of us, and in which time: the same on every port."""

LONGEST_HEAD = 1 << 16
"""Bytes of a request's line and headers together."""

MOST_HEADERS = 128
HEAD_SECONDS = 10.0
"""From the first byte of a head to its last, however steadily it drips."""

BODY_SECONDS = 60.0
"""Longest silence while a body comes."""

SLOWEST_BODY = 512
"""Bytes a second that a body must come with on the whole, once it has taken BODY_SECONDS."""

IDLE_SECONDS = 75.0
"""Between two requests of a connection, and before the first."""

STUCK_SECONDS = 300.0
"""Longest time in which nothing of an answer is taken."""

HANDSHAKE_SECONDS = 10.0
SWEEP_SECONDS = 1.0


def body_deadline(now: float, began: float, received: int) -> float:
    """When a body is given up of which `received` bytes have come since it `began`."""
    return min(now + BODY_SECONDS, began + BODY_SECONDS + received / SLOWEST_BODY)
