# Made from gateway/sdk/_async/volumes.py by `python gateway/sdk/generate.py`: change that one.
"""Named directories of yours and of your projects, for sessions to mount."""

from collections.abc import Sequence

from gateway.model.api import Page
from gateway.model.volume import VolumeRequest, VolumeView
from gateway.sdk import wire
from gateway.sdk._sync.transport import Transport


class Volumes:
    """Volumes: yours, and those of your projects."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> Sequence[VolumeView]:
        """Those that you may know of."""
        return wire.read(Page[VolumeView], self._transport.send(wire.get("/volumes"))).items

    def get(self, name: str, *, project: str | None = None) -> VolumeView:
        """Whose it is, and where it lies. VolumeNotFound."""
        return wire.read(VolumeView, self._transport.send(wire.get(_volume(name), project=project)))

    def set(self, name: str, request: VolumeRequest, *, project: str | None = None) -> VolumeView:
        """Name a directory, in the place of what had the name."""
        call = wire.kept("PUT", _volume(name), project, request)
        return wire.read(VolumeView, self._transport.send(call))

    def remove(self, name: str, *, project: str | None = None) -> None:
        """What is in the directory stays. VolumeNotFound."""
        self._transport.send(wire.kept("DELETE", _volume(name), project))


def _volume(name: str) -> str:
    return f"/volumes/{wire.quoted(name)}"
