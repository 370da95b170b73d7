"""A Dockerfile as an Apptainer definition file, by spython, and in words what has no equal there."""

import io
import json
import posixpath
import re
import shlex
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from spython.logger import bot
from spython.main.parse.parsers import DockerParser
from spython.main.parse.writers import SingularityWriter

from gateway.errors import Invalid

_HEREDOC = re.compile(r"<<-?\s*[\"']?[A-Za-z_]+")
_ARCHIVE = re.compile(r"\.(tar|tgz|gz|gzip|bz2|xz|zst)(\s|$)")

# Instructions that are left out, and why that is well, or what to do.
_DROPPED = {
    "USER": "the container runs as the user of the job",
    "EXPOSE": "the recipe says how a service listens",
    "VOLUME": "the recipe's mounts say what is bound",
    "HEALTHCHECK": "the recipe's probe says when a service is ready",
    "STOPSIGNAL": "a session is stopped with SIGTERM",
    "ONBUILD": "images that are built on this one do not know of it",
    "SHELL": "%post is run by /bin/sh: check that the RUN lines are for it",
}


@dataclass(frozen=True)
class Instruction:
    """One instruction of a Dockerfile, its continuation lines joined."""

    line: int
    word: str
    rest: str


@dataclass(frozen=True)
class Conversion:
    """The definition file, and what could not be converted: (line of the Dockerfile, what about it)."""

    definition: str
    notes: tuple[tuple[int, str], ...]


def convert(path: Path) -> Conversion:
    """Convert a Dockerfile. Invalid if there is no such file, or it is none that can be converted at all."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    instructions = list(read(text))
    if not any(each.word == "FROM" for each in instructions):
        raise Invalid(f"{path} has no FROM line, so it is not a Dockerfile")
    for each in instructions:
        if _HEREDOC.search(each.rest) and each.word in {"RUN", "COPY", "ADD"}:
            raise Invalid(
                f"{path}, line {each.line}: here-documents cannot be converted",
                hint="Put the text into a file and COPY it, or join the commands with &&.",
            )
    notes = [(each.line, note) for each in instructions if (note := _note(each))]
    kept = [each for each in instructions if each.word not in _DROPPED]
    cleaner = _Cleaner(path.parent)
    lines = [line for each in kept for line in cleaner.lines(each)]
    return Conversion(_definition(path, lines), tuple(sorted(notes + cleaner.notes)))


def read(text: str) -> Iterator[Instruction]:
    """The instructions of a Dockerfile, without comments."""
    start, parts = 0, list[str]()
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue  # comments may stand between the lines of one instruction, too
        if not parts:
            start = number
        parts.append(stripped.removesuffix("\\").strip())
        if not stripped.endswith("\\"):
            word, _, rest = " ".join(filter(None, parts)).partition(" ")
            yield Instruction(start, word.upper(), rest.strip())
            parts = []
    if parts:
        word, _, rest = " ".join(parts).partition(" ")
        yield Instruction(start, word.upper(), rest.strip())


def _note(each: Instruction) -> str | None:
    """What a person must know about an instruction, if anything."""
    match each.word:
        case word if word in _DROPPED:
            return f"{word} is left out: {_DROPPED[word]}."
        case "ARG" if "=" not in each.rest:
            return f"ARG {each.rest} has no default: give it one in the definition file."
        case "RUN" if each.rest.startswith("--"):
            return "RUN's options (mounts, network) are left out."
        case "RUN" if each.rest.startswith("["):
            return "RUN with a list is written as a command line."
        case "COPY" | "ADD" if re.search(r"--(chown|chmod|link|parents)", each.rest):
            return f"{each.word}'s options are left out: set owner and mode in %post."
        case "ADD" if _ARCHIVE.search(each.rest):
            return "ADD unpacks archives: the file is only copied, unpack it in %post."
        case "CMD":
            return "CMD's arguments are always given; a session runs the recipe's command instead of %runscript."
        case "FROM" if each.rest.split()[0].lower() == "scratch":
            return "FROM scratch has no equal: build on an image that has a shell."
        case _:
            return None


class _Cleaner:
    """Instructions as spython and Apptainer understand them: stages named, destinations absolute."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stage = 0
        self._workdir = "/"
        self.notes: list[tuple[int, str]] = []

    def lines(self, each: Instruction) -> list[str]:
        match each.word:
            case "FROM":
                return [self._from(each.rest)]
            case "WORKDIR":
                self._workdir = posixpath.join(self._workdir, each.rest.strip("\"'"))
                return [f"WORKDIR {self._workdir}"]
            case "RUN":
                rest = re.sub(r"^(--[a-z-]+(=\S+)?\s+)+", "", each.rest)
                return [f"RUN {shlex.join(words) if (words := _listed(rest)) else rest}"]
            case "ADD" if each.rest.startswith(("http://", "https://")):
                return [f"ADD {each.rest}"]
            case "COPY" | "ADD":  # spython would unpack an ADDed archive by a command that cannot work
                return self._copy(each)
            case "LABEL":
                pairs = (word.partition("=") for word in shlex.split(each.rest))
                return [f"LABEL {key} {value}" for key, _, value in pairs]
            case word:
                return [f"{word} {each.rest}"]

    def _from(self, rest: str) -> str:
        self._stage, self._workdir = self._stage + 1, "/"
        rest = re.sub(r"^(--\S+\s+)+", "", rest)
        named = re.search(r"\sas\s", rest, flags=re.IGNORECASE)
        return f"FROM {rest}" if named else f"FROM {rest} AS stage{self._stage}"

    def _copy(self, each: Instruction) -> list[str]:
        options = re.match(r"^(--\S+\s+)*", each.rest)
        given = options[0] if options else ""
        rest = each.rest.removeprefix(given)
        stage = re.search(r"--from=\S+\s", given)
        *sources, target = _listed(rest) or shlex.split(rest) or [""]
        if not target.startswith("/"):
            target = posixpath.join(self._workdir, "" if target == "." else target)
        if not stage:
            sources = [self._source(each, source.lstrip("/")) for source in sources]
        return [f"COPY {stage[0] if stage else ''}{source} {target}" for source in sources]

    def _source(self, each: Instruction, source: str) -> str:
        """Docker copies what is in a folder, Apptainer the folder."""
        if not (self._folder / source).is_dir():
            return source
        self.notes.append((each.line, f"{each.word} of the folder {source} leaves out its hidden files."))
        return posixpath.normpath(posixpath.join(source, "*"))


def _listed(text: str) -> list[str]:
    """The words of an instruction in JSON form; none if it has another form."""
    try:
        words = json.loads(text) if text.startswith("[") else []
    except ValueError:
        return []
    return [str(word) for word in words]


def _definition(path: Path, lines: list[str]) -> str:
    said = io.StringIO()
    before, bot.errorStream = bot.errorStream, said  # its warnings are in our notes, in words for our users
    try:
        with tempfile.TemporaryDirectory() as folder:
            clean = Path(folder) / "Dockerfile"
            clean.write_text("\n".join(lines) + "\n")
            parser = DockerParser(str(clean))
        for stage in parser.recipe.values():
            for attribute in ("entrypoint", "cmd"):
                if isinstance(value := getattr(stage, attribute), list):
                    setattr(stage, attribute, shlex.join(map(str, value)))
            # ENV and ARG hold for the RUN lines after them, also in the programs that these start.
            stage.install = ["set -ea", *stage.install] if stage.install else []
        text = SingularityWriter(parser.recipe).convert()
    except SystemExit as error:
        raise Invalid(f"{path} cannot be converted: {said.getvalue().strip()}") from error
    finally:
        bot.errorStream = before
    kept = filter(None, (line.rstrip() for line in text.splitlines()))
    body = "\n".join(f"\n{line}" if line.startswith(("%", "Bootstrap:")) else line for line in kept)
    return f"# From {path.name}, converted by spython.\n{body}\n"
