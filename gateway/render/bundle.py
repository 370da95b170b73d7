"""Packs the agent into the zip application that every job script carries."""

import ast
import base64
import hashlib
import io
import tokenize
import zipfile
from functools import cache
from importlib import resources
from typing import NamedTuple

import gateway.agent

_LINE = 76
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first date a zip can hold: the same sources give the same bytes
_PACKAGE = "sluice_agent"
_MAIN = f"import sys\nfrom {_PACKAGE}.main import main\nsys.exit(main(sys.argv[1:]))\n"


class AgentBundle(NamedTuple):
    """The agent as base64 text (lines of 76 characters, each ended by a newline), and what it decodes to.

    sha256: of the decoded file, hex. size: of the decoded file, bytes.
    """

    text: str
    sha256: str
    size: int


@cache
def agent_bundle() -> AgentBundle:
    """The installed agent, packed. Run it as `python3 agent.pyz spec.json`."""
    data = _pack()
    encoded = base64.b64encode(data).decode("ascii")
    text = "".join(encoded[at : at + _LINE] + "\n" for at in range(0, len(encoded), _LINE))
    return AgentBundle(text, hashlib.sha256(data).hexdigest(), len(data))


def _pack() -> bytes:
    sources = {
        f"{_PACKAGE}/{entry.name}": _bare(entry.read_text(encoding="utf-8")).encode()
        for entry in resources.files(gateway.agent).iterdir()
        if entry.name.endswith(".py")
    }
    sources["__main__.py"] = _MAIN.encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(sources):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            archive.writestr(info, sources[name])
    return buffer.getvalue()


def _bare(source: str) -> str:
    """The source without comments and docstrings, since slurmctld keeps every script; each line keeps its number."""
    lines = source.splitlines(keepends=True)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column].rstrip() + "\n"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node
        ):
            docstring = node.body[0]
            first, last = docstring.lineno - 1, docstring.end_lineno or docstring.lineno
            lines[first:last] = [" " * docstring.col_offset + '""\n', *["\n"] * (last - first - 1)]
    return "".join(lines)
