"""What the agent says in place of its service, which got nothing of the request: another replica may be asked."""

from __future__ import annotations


def refusal(why: str) -> bytes:
    """An answer to a request that was not passed on. `why`: `draining` (for good), `busy` or `unreachable`."""
    return (
        b"HTTP/1.1 503 Not Taken\r\nx-sluice-agent: %b\r\ncontent-length: 0\r\nconnection: close\r\n\r\n" % why.encode()
    )
