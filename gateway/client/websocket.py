"""Where one WebSocket message ends and the next begins, so that an end can be told between them (RFC 6455, 5.2)."""

_LENGTH_16, _LENGTH_64 = 126, 127
_CLOSE = 0x8
#: A close frame: going away.
GOING_AWAY = b"\x88\x02\x03\xe9"
#: A close frame: policy violation.
FORBIDDEN = b"\x88\x02\x03\xf0"


class Frames:
    """Follows a server's frames, which are not masked, without touching them."""

    __slots__ = ("_closed", "_head", "_left")

    def __init__(self) -> None:
        self._head = b""
        self._left = 0
        self._closed = False

    @property
    def between(self) -> bool:
        """Whether a frame of ours may stand here: not within another one, and not behind the server's last."""
        return not (self._left or self._head or self._closed)

    def take(self, data: bytes) -> None:
        """These bytes went by."""
        at, size = 0, len(data)
        while at < size:
            if self._left:
                step = min(self._left, size - at)
                self._left -= step
                at += step
                continue
            before = len(self._head)
            head = self._head + data[at : at + 10 - before]
            needed = _head_size(head)
            if len(head) < needed:
                self._head = head
                return
            self._head = b""
            self._closed = self._closed or head[0] & 0xF == _CLOSE
            self._left = int.from_bytes(head[2:needed]) if needed > 2 else head[1] & 0x7F  # noqa: PLR2004
            at += needed - before


def _head_size(head: bytes) -> int:
    """Of a frame's head, as far as its first two bytes tell."""
    short = head[1] & 0x7F if len(head) > 1 else 0
    return 10 if short == _LENGTH_64 else 4 if short == _LENGTH_16 else 2
