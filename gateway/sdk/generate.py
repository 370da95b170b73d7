"""Makes the blocking clients (`_sync`) from those for asyncio (`_async`): `python gateway/sdk/generate.py`."""

import re
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parent / "_async"
TARGET = Path(__file__).parent / "_sync"

_RULES = (
    (r"\bAsyncGenerator\[(.+?), None\]", r"Generator[\1, None, None]"),
    (r"  # noqa: ASYNC\d+ -- .*", ""),
    (r"\b(async|await) ", ""),
    (r"\bAsync(?=[A-Z])", ""),
    (r"\b__a(?=(enter|exit|iter|next)__)", "__"),
    (r"\baiter_lines\b", "iter_lines"),
    (r"\baiter_bytes\b", "iter_bytes"),
    (r"\baread\b", "read"),
    (r"\baclosing\b", "closing"),
    (r"\baclose\b", "close"),
    (r"\bfrom asyncio import sleep\b", "from time import sleep"),
    (r"\b_async\b", "_sync"),
)


def generate(name: str) -> str:
    """The blocking form of one module."""
    text = (SOURCE / name).read_text()
    for pattern, replacement in _RULES:
        text = re.sub(pattern, replacement, text)
    head = f"# Made from gateway/sdk/_async/{name} by `python gateway/sdk/generate.py`: change that one.\n"
    return _tidy(head + text)


def names() -> list[str]:
    """The modules that are made; the package's own `__init__` is not one of them."""
    return sorted(path.name for path in SOURCE.glob("*.py") if path.name != "__init__.py")


def _tidy(text: str) -> str:
    """Sorted imports and the house's format, so that what is made passes the same checks."""
    place = ["--stdin-filename", str(TARGET / "made.py"), "-"]
    for command in (["check", "--select", "I,F811,UP028", "--fix", "--unsafe-fixes", "--quiet"], ["format", "--quiet"]):
        text = subprocess.run(
            [sys.executable, "-m", "ruff", *command, *place], input=text, text=True, capture_output=True, check=True
        ).stdout
    return text


if __name__ == "__main__":
    for module in names():
        (TARGET / module).write_text(generate(module))
