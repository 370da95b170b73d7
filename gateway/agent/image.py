"""Whether the image of a job can be started on this node, and is the one that was pinned."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from typing import Any, Mapping, Optional

from . import errors


async def require(box: Mapping[str, Any]) -> None:
    """JobEnds if the image of the spec's `container` cannot be started, or is not the pinned one where asked for."""
    missing = lookup(box["image"])
    if missing is None and box["verify"]:
        found = await asyncio.get_running_loop().run_in_executor(None, _digest, box["image"])
        if found != box["sha256"]:
            missing = f"the image {box['image']} has another content now: sha256 {found}, not {box['sha256']}"
    if missing is not None:
        raise errors.JobEnds("image_missing", errors.IMAGE_MISSING, missing)


def lookup(image: str) -> Optional[str]:
    """What is missing to start this image on this node, in words; None if nothing is."""
    if shutil.which("apptainer") is None:
        return "apptainer is not on the PATH of this node"
    if not os.path.exists(image):
        return f"the image {image} is not there (or may not be seen by this user)"
    if not os.access(image, os.R_OK):
        return f"the image {image} may not be read by this user"
    return None


def _digest(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
