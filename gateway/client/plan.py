"""What is to be done with a request that a session answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.client.choice import Kin
from gateway.client.http1 import ResponseHead
from gateway.client.routes import Route


@dataclass(kw_only=True, slots=True)  # one a request: a frozen one takes three times as long to make
class Plan:
    """What a front wants done with a request.

    `routes`: the sessions that may answer it. `begin`: the bytes to send first to one of them. `repeatable`: it does no
    harm if it reaches a service twice. `rewrite`: what becomes of an answer's headers, as lines. `extra`: header lines
    put into every answer. `last_words`: put at the end of an event stream that breaks off. `counts`: whether the answer
    is searched for the tokens it used. `kin`: which replica it belongs to. `stream`: the caller wants an event stream.
    """

    routes: Sequence[Route]
    begin: Callable[[Route], bytes]
    repeatable: bool
    rewrite: Callable[[ResponseHead], bytes]
    extra: bytes = b""
    last_words: bytes = b""
    counts: bool = False
    kin: Kin | None = None
    stream: bool = False
