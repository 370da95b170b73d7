"""The packed agent: reproducible, small, and whole."""

import ast
import base64
import hashlib
import io
import tokenize
import zipfile
from importlib import resources

import gateway.agent
from gateway.render.bundle import agent_bundle


def test_the_text_decodes_to_what_the_digest_says() -> None:
    bundle = agent_bundle()
    data = base64.b64decode(bundle.text)
    assert hashlib.sha256(data).hexdigest() == bundle.sha256
    assert len(data) == bundle.size
    assert all(len(line) <= 76 for line in bundle.text.splitlines())
    assert bundle.text.endswith("\n")


def test_the_same_sources_give_the_same_bytes() -> None:
    agent_bundle.cache_clear()
    first = agent_bundle()
    agent_bundle.cache_clear()
    assert agent_bundle() == first


def test_it_holds_the_agent_and_nothing_else() -> None:
    with zipfile.ZipFile(io.BytesIO(base64.b64decode(agent_bundle().text))) as archive:
        names = archive.namelist()
    assert "__main__.py" in names
    assert all(name == "__main__.py" or name.startswith("sluice_agent/") for name in names)
    assert not [name for name in names if "__pycache__" in name]


def test_it_is_small() -> None:
    assert agent_bundle().size < 60_000


def test_only_what_is_for_readers_is_left_out_and_every_line_keeps_its_number() -> None:
    with zipfile.ZipFile(io.BytesIO(base64.b64decode(agent_bundle().text))) as archive:
        packed = {name.split("/")[1]: archive.read(name).decode() for name in archive.namelist() if "/" in name}
    sources = {
        entry.name: entry.read_text()
        for entry in resources.files(gateway.agent).iterdir()
        if entry.name.endswith(".py")
    }
    assert packed.keys() == sources.keys()
    for name, text in packed.items():
        assert _placed(text) == _placed(sources[name]), name
        assert "#" not in {token.string[:1] for token in tokenize.generate_tokens(io.StringIO(text).readline)}, name


def _placed(source: str) -> tuple[str, list[tuple[int, int]]]:
    """What a source says, docstrings aside, and where each part of it begins (line and column)."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [
                step for step in node.body if not (isinstance(step, ast.Expr) and isinstance(step.value, ast.Constant))
            ]
    return ast.dump(tree), [
        (node.lineno, node.col_offset) for node in ast.walk(tree) if isinstance(node, ast.expr | ast.stmt)
    ]
