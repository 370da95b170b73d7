"""The reference pages say what the code says."""

import pytest

from gateway.cli import reference
from gateway.cli.main import main
from gateway.errors import tree
from gateway.settings import Settings


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return reference.pages()


def test_the_pages_are_current(pages: dict[str, str]) -> None:
    for name, text in pages.items():
        written = (reference.FOLDER / name).read_text()
        assert written == text, f"docs/reference/{name} is old: python -m gateway.cli.reference"


def test_everything_is_on_them(pages: dict[str, str]) -> None:
    for path, command in main.walk():
        assert f"### `sluice {path}`" in pages["cli.md"]
        for parameter in command.params:
            assert parameter.param_type_name == "argument" or all(name in pages["cli.md"] for name in parameter.opts)
    for name, field in Settings.model_fields.items():
        assert field.exclude or name in pages["settings.md"]
    for kind in tree():
        assert f"| `{kind.code}` | `{kind.__name__}` |" in pages["errors.md"]
