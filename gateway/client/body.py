"""The body of a request: what of it is kept, so that the request can be sent again."""

from gateway.client.framing import Frame

#: A request whose body came in pieces can be sent again while it is not longer than this.
MOST_KEPT = 1 << 16


class Body:
    """What has come of a body. `size`: bytes that were kept, or would have been."""

    __slots__ = ("_frame", "_pieces", "size")

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._pieces: list[bytes] | None = []
        self.size = 0

    @property
    def at_hand(self) -> bool:
        """Everything that has come of it is here."""
        return self._pieces is not None

    @property
    def whole(self) -> bool:
        """Nothing more of it will come."""
        return self._frame.done

    @property
    def text(self) -> bytes:
        """What is kept of it."""
        return b"".join(self._pieces) if self._pieces else b""

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        """What of these bytes belongs to the request, and what to the next one."""
        size = self._frame.take(data) if data and not self._frame.done else 0
        return (data[:size], data[size:]) if size < len(data) else (data, b"")

    def keep(self, piece: bytes, *, sent: bool) -> None:
        """Add a piece. What was `sent` on need not be kept once it is long."""
        if self._pieces is not None:
            self._pieces.append(piece)
            self.size += len(piece)
            if sent:
                self.shorten()

    def shorten(self) -> None:
        """Let go of it if it is too long to be sent again."""
        if self.size > MOST_KEPT:
            self.drop()

    def drop(self) -> None:
        self._pieces = None
