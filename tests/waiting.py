"""What tests wait for: asked again and again until it is so, and no longer than a slow machine may need."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")
WITHIN = 120.0
EVERY = 0.05


@overload
def until(ask: Callable[[], T | None], *, within: float = WITHIN, what: str = "") -> T: ...
@overload
def until(ask: Callable[[], T], reached: Callable[[T], bool], *, within: float = WITHIN, what: str = "") -> T: ...
def until(
    ask: Callable[[], Any], reached: Callable[[Any], bool] = bool, *, within: float = WITHIN, what: str = ""
) -> Any:
    """Ask until the answer is as wanted, each time the whole question; that answer. AssertionError after `within` s."""
    deadline = time.monotonic() + within
    while not reached(found := ask()):
        _soon_enough(deadline, within, what, found)
        time.sleep(EVERY)
    return found


@overload
async def until_so(
    ask: Callable[[], Awaitable[T]], reached: Callable[[T], bool] = bool, *, within: float = WITHIN, what: str = ""
) -> T: ...
@overload
async def until_so(
    ask: Callable[[], T], reached: Callable[[T], bool] = bool, *, within: float = WITHIN, what: str = ""
) -> T: ...
async def until_so(
    ask: Callable[[], Any], reached: Callable[[Any], bool] = bool, *, within: float = WITHIN, what: str = ""
) -> Any:
    """The same in an event loop, whose other tasks go on meanwhile; the question may be one to wait for."""
    deadline = time.monotonic() + within
    while True:
        answer = ask()
        found = await answer if inspect.isawaitable(answer) else answer
        if reached(found):
            return found
        _soon_enough(deadline, within, what, found)
        await asyncio.sleep(EVERY)


def _soon_enough(deadline: float, within: float, what: str, found: object) -> None:
    assert time.monotonic() < deadline, f"{what or 'it is not so'}: not within {within:g} s; last: {found}"
