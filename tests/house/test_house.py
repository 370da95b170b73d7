"""The rules of the house, kept by a machine."""

import ast
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("gateway", "monitoring", "logs")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MOST_LINES = 500


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("module", MODULES, ids=relative)
def test_a_module_is_short_and_says_what_it_is_for(module: Path) -> None:
    text = module.read_text()
    assert len(text.splitlines()) <= MOST_LINES
    assert ast.get_docstring(ast.parse(text)), f"{relative(module)} has no docstring"


def test_nothing_is_left_for_later() -> None:
    words = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError)\b|# type: ignore|pragma: no cover")
    found = [f"{relative(p)}: {m[0]}" for p in MODULES for m in words.finditer(p.read_text())]
    assert found == []


def test_no_test_sleeps() -> None:
    """A pause stands only in a helper that waits for a condition (`until...`), or in what a test starts as a job."""
    found = []
    for path in (ROOT / "tests").rglob("test_*.py"):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) and not function.name.startswith("until"):
                found += [f"{relative(path)}:{function.name}" for node in ast.walk(function) if _sleeps(node)]
    assert found == []


def _sleeps(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "sleep"
        and not (isinstance(node.args[0], ast.Constant) and node.args[0].value == 0)
    )


def test_tests_are_no_packages() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_git_keeps_the_logs_package() -> None:
    answer = subprocess.run(["git", "check-ignore", "-q", "logs/app.py"], cwd=ROOT, check=False)
    assert answer.returncode == 1


def test_shared_rows_are_queried_in_the_store_only() -> None:
    shared = re.compile(r"select\(.*sessions\b")
    outside = [p for p in MODULES if "store" not in p.parts and shared.search(p.read_text())]
    assert outside == [], "shared rows are queried through gateway.store only"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return next(out.glob("*.whl"))


def test_the_wheel_holds_everything(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    for module in MODULES:
        assert relative(module) in inside
    for folder in ("recipes", "sbatch_templates", "apptainer"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file():
                assert f"gateway/_data/{relative(path)}" in inside


def test_an_installed_wheel_finds_its_data_from_anywhere(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from gateway import data\n"
        "from gateway.core.recipes import Catalogue\n"
        "assert str(data.folder('recipes')).startswith(sys.argv[1]), data.folder('recipes')\n"
        "print(*[recipe.name for recipe in Catalogue([data.folder('recipes')]).list()])\n"
    )
    command = [sys.executable, "-P", "-c", program, str(tmp_path / "site")]
    answer = subprocess.run(command, cwd="/", check=True, capture_output=True, text=True)
    assert "llama-cpp" in answer.stdout.split()


def test_the_bare_install_loads_sdk_and_help_without_the_server() -> None:
    """Importing the SDK and the command line must not load what only the server needs."""
    heavy = "sqlalchemy fastapi aiohttp asyncssh jinja2 uvicorn"
    program = f"import sys, gateway.sdk, gateway.cli.main; print(*sorted(set('{heavy}'.split()) & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", program], cwd="/", check=True, capture_output=True, text=True)
    assert answer.stdout.split() == []
