"""An image on a cluster: an Apptainer SIF with a name, known by its digest."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

from gateway.model.jobspec import AbsolutePath
from gateway.model.plan import PinnedImage

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Image(BaseModel):
    """One image; a name may have several, and the newest is the one that new sessions get. `size` in bytes.

    An image that is known by its path has the path as its name, and its time of modification as `built_at`.
    """

    model_config = ConfigDict(frozen=True)

    cluster: str
    name: str
    sha256: Sha256
    path: AbsolutePath
    size: int
    built_at: datetime

    @property
    def pinned(self) -> PinnedImage:
        return PinnedImage(name=self.name, path=self.path, sha256=self.sha256)
