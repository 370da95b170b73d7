"""Waiting for whichever of several things comes first."""

from __future__ import annotations

import asyncio
from typing import Any, Awaitable, List, Optional


async def first(*waits: Awaitable[Any], within: Optional[float] = None) -> Optional[int]:
    """Which of these comes first (the first of several at once); None if none within so many seconds.

    An error of the one that comes first is raised here; the others are cancelled.
    """
    tasks: List[asyncio.Future[Any]] = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, timeout=within, return_when=asyncio.FIRST_COMPLETED)
        for index, task in enumerate(tasks):
            if task.done():
                task.result()
                return index
        return None
    finally:
        for task in tasks:
            task.cancel()
