"""The Python SDK: a gateway over HTTP, blocking (`Sluice`) and for asyncio (`AsyncSluice`)."""

from gateway.sdk._async.client import AsyncSluice
from gateway.sdk._async.session import AsyncSession
from gateway.sdk._sync.client import Sluice
from gateway.sdk._sync.session import Session

__all__ = ["AsyncSession", "AsyncSluice", "Session", "Sluice"]
