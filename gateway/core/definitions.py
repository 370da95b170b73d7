"""Apptainer definition files: which there are, what arguments they take, and all that a build of one needs."""

import difflib
import gzip
import hashlib
import io
import re
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gateway import data
from gateway.errors import ImageMissing, Invalid

SHARED = "files"
_SUFFIX = ".def"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_SECTION = re.compile(r"^%(\w+)(.*)$")
_ARGUMENT = re.compile(r"^\s*([A-Za-z_][A-Za-z0-9_]*)=(.*?)\s*$")
BASE = "BASE"


@dataclass(frozen=True)
class Definition:
    """A definition file. The name of the image is the name of the file."""

    name: str
    path: Path
    text: str

    @property
    def arguments(self) -> dict[str, str]:
        """The build arguments that it takes, with their defaults (`%arguments`)."""
        return {m[1]: m[2].strip("\"'") for line in self.section("arguments") if (m := _ARGUMENT.match(line))}

    @property
    def base(self) -> str | None:
        """The name of the image that it is built on: its argument BASE is `<name>.sif`."""
        return self.arguments[BASE].removesuffix(".sif") if BASE in self.arguments else None

    @property
    def sources(self) -> tuple[str, ...]:
        """What `%files` takes from beside the definition file."""
        lines = (line.split() for line in self.section("files") if not line.strip().startswith("#"))
        return tuple(words[0] for words in lines if words)

    def section(self, name: str) -> list[str]:
        """The lines of a section; a section that stands twice counts twice, `%files from STAGE` not at all."""
        lines, inside = [], False
        for line in self.text.splitlines():
            if head := _SECTION.match(line):
                inside = head[1] == name and not head[2].strip().startswith("from ")
            elif inside:
                lines.append(line)
        return lines

    def check(self, arguments: Mapping[str, str]) -> None:
        """Invalid for an argument that the file does not take, or that cannot be told to Apptainer."""
        known = self.arguments
        for name, value in arguments.items():
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                raise Invalid(
                    f"{self.path.name} takes no argument {name!r}",
                    hint=f"Did you mean {close[0]!r}?" if close else f"It takes: {', '.join(known) or 'none'}.",
                )
            if not value.isprintable() or "'" in value or '"' in value or "$" in value or "`" in value:
                raise Invalid(f"the value of {name} is put into the file as it stands: no quotes, $ or line breaks")

    def context(self) -> bytes:
        """All that a build needs, as a compressed tar: `image.def`, the shared files, and what `%files` names.

        The same files give the same bytes. Invalid if a named file is missing or lies elsewhere.
        """
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
            _add(tar, "image.def", self.text.encode(), 0o644)
            for name, path in sorted(self._files().items()):
                _add(tar, name, path.read_bytes(), 0o755 if path.stat().st_mode & 0o100 else 0o644)
        return gzip.compress(buffer.getvalue(), mtime=0)

    def digest(self, arguments: Mapping[str, str], base_sha256: str | None) -> str:
        """What an image is made from: the same digest, the same image but for newer packages."""
        told = hashlib.sha256(self.context())
        for name, value in sorted(arguments.items()):
            told.update(f"\0{name}={value}".encode())
        told.update(f"\0{base_sha256 or ''}".encode())
        return told.hexdigest()

    def _files(self) -> dict[str, Path]:
        shared = data.folder("apptainer") / SHARED
        found = {f"{SHARED}/{path.name}": path for path in shared.iterdir() if path.is_file()}
        here = self.path.parent.resolve()
        for source in self.sources:
            if source.startswith("/"):
                continue  # the build host's own
            places = [place for place in here.glob(source) if place.resolve().is_relative_to(here)]
            if not places:
                raise Invalid(
                    f"{self.path}: %files names {source}, which is not beside the definition file",
                    hint="Only what lies in its folder, or absolute paths on the build host, can be copied.",
                )
            for place in places:
                inside = place.rglob("*") if place.is_dir() else (place,)
                found.update({str(path.relative_to(here)): path for path in inside if path.is_file()})
        return found


def shipped() -> list[str]:
    """Names of the images that come with Sluice."""
    return sorted(path.stem for path in data.folder("apptainer").glob(f"*{_SUFFIX}"))


def find(name: str) -> Definition:
    """A shipped definition by its name, or one of the user's by its path (`./mine.def`)."""
    path = Path(name) if name.endswith(_SUFFIX) else data.folder("apptainer") / f"{name}{_SUFFIX}"
    if not name.endswith(_SUFFIX) and name not in shipped():
        close = difflib.get_close_matches(name, shipped(), n=1)
        raise ImageMissing(
            f"there is no definition of an image {name!r}",
            hint=(f"Did you mean {close[0]!r}? " if close else f"Shipped: {', '.join(shipped())}. ")
            + "A file of your own: sluice image build ./NAME.def.",
        )
    if not _NAME.fullmatch(path.stem):
        raise Invalid(
            f"{path.stem!r} cannot be the name of an image",
            hint="Name the file in lower-case letters, digits, dashes, dots and underscores, 63 at most.",
        )
    try:
        return Definition(path.stem, path, path.read_text())
    except OSError as error:
        raise Invalid(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Invalid(f"{path} is not a text file") from error


def _add(tar: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))
