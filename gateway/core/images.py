"""Images of a cluster: build, add, find, and pin by digest for a session.

They lie in one folder of the cluster (`image_dir`), each under its name and digest and beside a note of what it is,
so older digests stay usable and a gateway with an empty database finds them again. All that happens to them there is
done by one shell script (apptainer/images.sh), as the Unix user that jobs run as.
"""

import json
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection

from gateway import data
from gateway.core import audit, definitions
from gateway.core.context import Cluster, Gateway
from gateway.core.definitions import BASE, Definition
from gateway.core.ports import CommandResult, Shell
from gateway.errors import ImageBuildFailed, ImageMissing, Invalid, Unavailable
from gateway.model.audit import AuditLine
from gateway.model.image import Image
from gateway.model.plan import PinnedImage
from gateway.store import images as store
from gateway.store.database import Database

Progress = Callable[[str], None]
COMPRESSIONS = ("zstd", "gzip")
LAST_LINES = 25
_ASK_SECONDS = 30.0
_HASH_SECONDS = 900.0
_FOUND = re.compile(r"^@image (/.+?) (\{.*\})$")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_STAGE = "@stage "
_FOLDER = "@folder "
_NOISE = ("destination is already in the mount point list", "Non-gzip squashfs", "gocryptfs not found")


def silent(line: str) -> None:
    """Progress that nobody wants to see."""
    del line


async def resolve(gateway: Gateway, cluster_name: str, name: str) -> PinnedImage:
    """The image that `name` means now on the cluster, pinned. ImageMissing says how to build it.

    A name is looked up in the database, then among the images in the cluster's folder. An absolute path is a SIF of
    the site's own: it is hashed when it is first used, and again when its size or time of modification changed.
    """
    return (await find(gateway.db, gateway.cluster(cluster_name), name)).pinned


async def find(db: Database, cluster: Cluster, name: str) -> Image:
    """What `resolve` pins."""
    if name.startswith("/"):
        return await _by_path(db, cluster, name)
    if known := await db.read(lambda connection: store.newest(connection, cluster.name, name)):
        return known
    if cluster.build_shell is not None:
        await adopt(db, cluster)
        if known := await db.read(lambda connection: store.newest(connection, cluster.name, name)):
            return known
    raise _missing(cluster.name, name)


async def every(db: Database, cluster: str | None = None, name: str | None = None) -> Sequence[Image]:
    """The images that the database knows, the newest of a name first."""
    return await db.read(lambda connection: store.every(connection, cluster, name))


async def adopt(db: Database, cluster: Cluster) -> Sequence[Image]:
    """Make the database know what lies in the cluster's folder, and forget what lay there and is gone; what there is.

    Only images whose file and note belong to the Unix user count: the folder may be one that others write to.
    """
    shell = _shell(cluster)
    done = await _script(shell, cluster, ["list", cluster.settings.image_dir], timeout=_ASK_SECONDS)
    if done.returncode != 0:
        raise Unavailable(f"the images of {cluster.name} cannot be listed: {_last(done.stderr)}")
    there = [_noted(cluster.name, *found) for found in _found(done.stdout)]
    known = await every(db, cluster.name)
    paths = {image.path for image in there}
    folder = next((line.removeprefix(_FOLDER) for line in done.stdout.splitlines() if line.startswith(_FOLDER)), "")
    gone = [image for image in known if image.path == _path(folder, image) and image.path not in paths]
    new = [image for image in there if image not in known]
    if new or gone:
        await db.write(_record, new, gone)
    return there


async def build(
    db: Database,
    cluster: Cluster,
    name: str,
    *,
    arguments: Mapping[str, str] | None = None,
    compression: str = "zstd",
    force: bool = False,
    progress: Progress = silent,
) -> Image:
    """Build an image and what it is built on, by its name or the path of a definition file.

    What was built before from the same files, arguments and base is not built again unless `force`. Raises Invalid
    for arguments that the definition does not take, ImageBuildFailed with the last lines of a build that failed.
    """
    shell = _shell(cluster)
    if compression not in COMPRESSIONS:
        raise Invalid(f"unknown compression {compression!r}", hint=f"One of: {', '.join(COMPRESSIONS)}.")
    definition = definitions.find(name)
    given = dict(arguments or {})
    definition.check(given)
    base: Image | None = None
    if definition.base is not None and BASE not in given:
        takes = definitions.find(definition.base).arguments
        base = await build(
            db,
            cluster,
            definition.base,
            arguments={key: value for key, value in given.items() if key in takes and key != BASE},
            compression=compression,
            progress=progress,
        )
    image = await _build(shell, cluster, definition, given, base, compression, force=force, progress=progress)
    await db.write(_made, image, "image.build")
    return image


async def ensure(db: Database, cluster: Cluster, name: str, *, progress: Progress = silent) -> Image:
    """The newest image of this name that really lies on the cluster, built now if there is none."""
    there = [image for image in await adopt(db, cluster) if image.name == name]
    if there:
        return max(there, key=lambda image: image.built_at)
    elsewhere = await every(db, cluster.name, name)  # `add`ed from another folder
    for image in elsewhere:
        if await cluster.files.stat(cluster.settings.user, image.path) is not None:
            return image
    return await build(db, cluster, name, progress=progress)


async def add(db: Database, cluster: Cluster, name: str, path: str, *, now: datetime) -> Image:
    """Give a SIF that lies on the cluster a name; it stays where it is. Invalid if it is not a SIF of ours to read."""
    if not _NAME.fullmatch(name):
        raise Invalid(f"{name!r} cannot be the name of an image", hint="Lower-case letters, digits and dashes.")
    found, facts = await _hashed(cluster, path)
    image = Image(cluster=cluster.name, name=name, sha256=facts["sha256"], path=found, size=facts["size"], built_at=now)
    await db.write(_made, image, "image.add")
    return image


# ------------------------------------------------------------------ the steps


async def _build(
    shell: Shell,
    cluster: Cluster,
    definition: Definition,
    given: Mapping[str, str],
    base: Image | None,
    compression: str,
    *,
    force: bool,
    progress: Progress,
) -> Image:
    source = definition.digest(given, base.sha256 if base else None)
    values = {**given, **({BASE: base.path} if base else {})}
    tail: deque[str] = deque(maxlen=LAST_LINES)

    def told(line: str) -> None:
        line = line.rstrip()
        if line.startswith(_STAGE):
            progress(line.removeprefix(_STAGE))
        elif line and not line.startswith("@image ") and not any(noise in line for noise in _NOISE):
            tail.append(line)
            progress(line)

    done = await _script(
        shell,
        cluster,
        ["build", cluster.settings.image_dir, definition.name, source, "yes" if force else "no", compression]
        + [f"{key}={value}" for key, value in sorted(values.items())],
        stdin=definition.context(),
        on_line=told,
    )
    found = _found(done.stdout)
    if done.returncode != 0 or not found:
        last = "\n".join(f"  {line}" for line in tail)
        raise ImageBuildFailed(
            f"building {definition.name} on {cluster.name} ended with {done.returncode}; its last lines:\n{last}",
            hint=f"The definition is {definition.path}.",
            lines=list(tail),
        )
    return _noted(cluster.name, *found[-1])


async def _by_path(db: Database, cluster: Cluster, path: str) -> Image:
    now = await cluster.files.stat(cluster.settings.user, path)
    if now is None or now.directory:
        raise ImageMissing(
            f"there is no image {path} on {cluster.name}",
            hint=f"Is the path right, and may {cluster.settings.user} read it?",
        )
    known = await db.read(lambda connection: store.newest(connection, cluster.name, path))
    if known is not None and (known.size, known.built_at) == (now.size, now.modified.replace(microsecond=0)):
        return known
    found, facts = await _hashed(cluster, path)
    image = Image(
        cluster=cluster.name,
        name=path,
        sha256=facts["sha256"],
        path=found,
        size=facts["size"],
        built_at=datetime.fromtimestamp(facts["modified"], UTC),
    )
    await db.write(lambda connection: store.save(connection, image))
    return image


async def _hashed(cluster: Cluster, path: str) -> tuple[str, dict[str, Any]]:
    if not path.startswith("/"):
        raise Invalid(f"{path!r} is not an absolute path", hint="Give the path as the cluster's nodes see it.")
    done = await _script(_shell(cluster), cluster, ["digest", path], timeout=_HASH_SECONDS)
    found = _found(done.stdout)
    if done.returncode != 0 or not found:
        raise Invalid(f"{path} on {cluster.name} cannot be used as an image: {_last(done.stderr)}")
    return found[0]


async def _script(
    shell: Shell,
    cluster: Cluster,
    arguments: Sequence[str],
    *,
    stdin: bytes | None = None,
    timeout: float | None = None,  # noqa: ASYNC109 - the port's: it ends the command, too
    on_line: Progress | None = None,
) -> CommandResult:
    text = (data.folder("apptainer") / "images.sh").read_text()
    argv = ["sh", "-c", text, "sluice-image", *arguments]
    return await shell.run(argv, user=cluster.settings.user, stdin=stdin, timeout=timeout, on_line=on_line)


def _shell(cluster: Cluster) -> Shell:
    if cluster.build_shell is None:
        raise Unavailable(
            f"no commands can be run on {cluster.name}, so nothing can be built there",
            hint=f"Set clusters.{cluster.name}.build_host or ssh_host.",
        )
    return cluster.build_shell


def _found(stdout: str) -> list[tuple[str, dict[str, Any]]]:
    return [(m[1], json.loads(m[2])) for line in stdout.splitlines() if (m := _FOUND.match(line))]


def _noted(cluster: str, path: str, facts: Mapping[str, Any]) -> Image:
    return Image(cluster=cluster, path=path, **{key: facts[key] for key in ("name", "sha256", "size", "built_at")})


def _path(folder: str, image: Image) -> str:
    """Where a built image lies (see apptainer/images.sh)."""
    return f"{folder}/{image.name}-{image.sha256[:12]}.sif"


def _made(connection: Connection, image: Image, action: str) -> None:
    """Keep an image that somebody made known."""
    store.save(connection, image)
    _tell(connection, audit.by_operator(), action, image)


def _record(connection: Connection, new: Sequence[Image], gone: Sequence[Image]) -> None:
    """Keep what was found in the folder, forget what is gone from it: the gateway does so by itself."""
    told = audit.by_system(datetime.now(UTC))
    for image in gone:
        store.remove(connection, image)
        _tell(connection, told, "image.forget", image)
    for image in new:
        store.save(connection, image)
        _tell(connection, told, "image.adopt", image)


def _tell(connection: Connection, told: AuditLine, action: str, image: Image) -> None:
    said: audit.Details = {"cluster": image.cluster, "sha256": image.sha256, "path": image.path}
    audit.record(connection, told, action, "image", image.name, details=said)


def _last(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "no reason was given")


def _missing(cluster: str, name: str) -> ImageMissing:
    if name in definitions.shipped():
        return ImageMissing(
            f"the image {name!r} is not on {cluster} yet",
            hint=f"Build it: sluice image build {name} --cluster {cluster}.",
        )
    return ImageMissing(
        f"there is no image {name!r} on {cluster}",
        hint=f"sluice image list shows what there is; sluice image build ./{name}.def builds one, "
        f"sluice image add {name} PATH takes a SIF that is there.",
    )
