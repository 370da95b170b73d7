"""Named directories of yours and of your projects, for sessions to mount."""

from collections.abc import Sequence

from gateway.model.api import Page
from gateway.model.volume import VolumeRequest, VolumeView
from gateway.sdk import wire
from gateway.sdk._async.transport import AsyncTransport


class AsyncVolumes:
    """Volumes: yours, and those of your projects."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def list(self) -> Sequence[VolumeView]:
        """Those that you may know of."""
        return wire.read(Page[VolumeView], await self._transport.send(wire.get("/volumes"))).items

    async def get(self, name: str, *, project: str | None = None) -> VolumeView:
        """Whose it is, and where it lies. VolumeNotFound."""
        return wire.read(VolumeView, await self._transport.send(wire.get(_volume(name), project=project)))

    async def set(self, name: str, request: VolumeRequest, *, project: str | None = None) -> VolumeView:
        """Name a directory, in the place of what had the name."""
        call = wire.kept("PUT", _volume(name), project, request)
        return wire.read(VolumeView, await self._transport.send(call))

    async def remove(self, name: str, *, project: str | None = None) -> None:
        """What is in the directory stays. VolumeNotFound."""
        await self._transport.send(wire.kept("DELETE", _volume(name), project))


def _volume(name: str) -> str:
    return f"/volumes/{wire.quoted(name)}"
