"""The rules of the house, kept by a machine."""

import ast
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from gateway.server.actions import ACTIONS, CHANGES_NOTHING
from gateway.server.app import routes

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


TABLES = {"gateway.store.schema", "gateway.store.people"}
#: Queries that are asked for nobody, and why that is right. Every other one starts from the caller.
FOR_NOBODY = {
    "audit.<module>": "number and hash of the newest row alone",
    "clusters.every": "clusters are everybody's",
    "database._revision": "of the schema",
    "database.ping": "no rows",
    "counts.by_phase": "numbers, no rows",
    "events.newest": "the id alone: where a reader starts",
    "images.every": "images are everybody's",
    "projects._shares": "of a project that was found for the caller",
    "projects._view": "of a project that was found for the caller",
    "projects.labels": "of the project of a session that was found for the caller",
    "projects.known": "names alone, for the groups that a provider tells",
    "revision.<module>": "one number",
    "engine.tell": "no rows",
    "events.everybodys": "each is shown to those alone who see whose it is",
    "secrets.given": "the reconcile loop's",
    "secrets.keys_in_use": "names of keys, for their rotation",
    "secrets.sealed_otherwise": "sealed values, for the rotation of keys",
    "sessions._joined": "what visible_to narrows",
    "sessions._page_of": "one way to see sessions, for listing",
    "sessions._as_text": "of a query that starts from the caller",
    "sessions.load": "by ids that the caller was told",
    "watch._mark": "an id and two numbers",
    "watch._since": "types alone: whether there is something to look at",
    "files.used_by": "a number",
    "files.length": "of the input of a task, for whoever works on it",
    "files.piece": "of a file that was found for the caller, or is read by whoever works on its task",
    "files.forgotten": "ids, for the sweep",
    "results.keep": "for whoever works on the task",
    "results.done": "for whoever works on the task",
    "results.place": "for whoever works on the task",
    "results.length": "of a task that was found for the caller",
    "results.read": "of a task that was found for the caller",
    "tasks.known": "whether the caller's own key is used",
    "tasks.earlier": "of the caller's own key",
    "tasks.live_of": "a number",
    "tasks.reads": "whether a file that was found for the caller is used",
    "tasks.remove": "of a task that was found for the caller",
    "tasks.live": "ids and holders, for whoever works on tasks",
    "tasks.phase": "for whoever works on the task",
    "tasks.reread": "for whoever works on the task",
    "tasks.hold": "for whoever works on the task",
    "tasks.forgotten": "ids, for the sweep",
    "instance.ensure": "the gateway's own name",
    "keys.check": "the owner's own key",
    "keys.spend": "of a session that was found for the caller",
    "orphans.add": "counted for nobody",
    "orphans.counts": "numbers for monitoring",
    "orphans.owners": "the reconcile loop's sweep",
    "orphans.users": "the reconcile loop's sweep",
    "openings.take": "tells who calls",
    "sessions.asked": "the reconcile loop's",
    "sessions.live": "the reconcile loop's",
    "sessions.living": "the data plane's, which shows each to those alone who may use it",
    "members._current": "a version, for a writer that already holds the row",
    "members.every": "of a session that was found for the caller",
    "members.next_attempt": "one number",
    "serving.serving": "the data plane's, which shows each to those alone who may use it",
    "loads.loads": "numbers, for the reconcile loop",
    "loads.report": "ids that exist, of those that the data plane names",
    "sessions.reread": "for a writer that holds the session",
    "signins.by_cookie": "tells who calls",
    "signins.take": "tells who calls",
    "signins.spend": "tells who calls",
    "tokens.kept": "tells who calls",
    "users._roles": "of a user who was found, or who calls",
    "users._unix": "of a user who was found, or who calls",
    "users._view": "of a user who was found for the caller",
    "users.by_identity": "tells who calls",
    "users.by_unix": "tells who calls",
    "users.id_of": "whether a name is taken, for those who know it",
    "users.person": "tells who calls",
    "users.set_unix": "of users who were removed, for whom an operator names",
    "users.set_group_roles": "of the user who signs in",
    "users.uid": "of the caller's own Unix user",
    "views.<module>": "of sessions that the caller was told of",
}
OTHER_TABLES = {"leases"}


def test_tables_are_touched_in_the_store_only() -> None:
    outside = [
        relative(path)
        for path in MODULES
        if "store" not in path.parts
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module in TABLES
    ]
    assert outside == []


def test_every_query_of_shared_rows_starts_from_the_caller() -> None:
    """There is one way to ask for rows that are somebody's: `visible_to(caller)`, or `seen_by(caller)` in it."""
    found = set()
    for path in (ROOT / "gateway/store").glob("*.py"):
        if path.stem not in OTHER_TABLES:
            found |= {f"{path.stem}.{name}" for name in _unasked(ast.parse(path.read_text()))}
    assert found - set(FOR_NOBODY) == set(), "start it from visible_to(caller), or say above why it need not"
    assert set(FOR_NOBODY) - found == set(), "these are gone: take them off the list"


def _unasked(tree: ast.Module) -> set[str]:
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    rest = [node for node in tree.body if not isinstance(node, ast.FunctionDef)]
    names = {function.name for function in functions if _selects(function) and not _starts_from_caller(function)}
    return names | ({"<module>"} if any(_selects(node) for node in rest) else set())


def _calls(node: ast.AST) -> set[str]:
    return {call.func.id for call in ast.walk(node) if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)}


def _selects(node: ast.AST) -> bool:
    return bool(_calls(node) & {"select", "_joined", "text"})


def _starts_from_caller(function: ast.FunctionDef) -> bool:
    return function.name == "visible_to" or bool(_calls(function) & {"visible_to", "seen_by", "ways_to_see"})


#: Writes to the database that leave no row in the audit log, and why that is right.
NO_ROW = {
    "gateway/cli/assemble.py:assemble": "the gateway's own name, made once",
    "gateway/client/app.py:_wake": "a request waits for a session that sleeps: an event",
    "gateway/client/loads.py:report": "how busy sessions are",
    "gateway/client/batch.py:_assemble": "results of a task that has a row",
    "gateway/client/batch.py:_flush": "results of a task that has a row",
    "gateway/client/batch.py:_give_up": "results of a task that has a row",
    "gateway/client/batch.py:_goes_on": "what a task waits for",
    "gateway/client/batch.py:_step": "how a task goes on",
    "gateway/client/runner.py:_leave": "who works on tasks",
    "gateway/client/runner.py:_take": "who works on tasks",
    "gateway/client/runner.py:_turn": "who works on tasks",
    "gateway/core/files.py:__aexit__": "an upload that was given up",
    "gateway/core/files.py:_put": "a piece of a file, which has a row once it is whole",
    "gateway/core/files.py:begin": "a file that is to come, which has a row once it is whole",
    "gateway/core/tasks.py:show": "results of a task that has a row",
    "gateway/core/images.py:_by_path": "the digest of a file that a session names: its row has it",
    "gateway/core/leases.py:_give": "who works for a cluster",
    "gateway/core/leases.py:beat": "who works for a cluster",
    "gateway/core/leases.py:run": "who works for a cluster",
    "gateway/core/openings.py:take": "the link has a row, and is good once",
    "gateway/core/reconcile.py:_count_lost": "a number; how the session ended is an event",
    "gateway/core/reconcile.py:_see": "what was seen of a cluster",
    "gateway/core/reconcile.py:_write": "what its callers write",
    "gateway/core/unix.py:user_of": "the uid of a Unix user who has a row",
    "gateway/core/witness.py:_write_some": "the rows themselves",
    "gateway/identity/munge.py:admit": "a credential is used up; the sign-in by it has a row",
    "gateway/identity/callers.py:_keep_use": "when a token was used last",
    "gateway/web/signin.py:_finish": "a sign-in that is under way is used up",
    "gateway/web/signin.py:_remember": "the browser of a sign-in that has a row",
    "gateway/web/signin.py:login": "a sign-in that has begun",
}


def test_every_write_leaves_a_row_in_the_audit_log() -> None:
    """Whoever writes tells what they did, in the same function: `audit.record(...)` in what they hand to `write`."""
    found = set()
    for path in (ROOT / "gateway").rglob("*.py"):
        tree = ast.parse(path.read_text())
        functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
        tellers: set[str] = set()
        for _ in functions:  # also those that tell through another
            tellers |= {function.name for function in functions if _uses_audit(function, tellers)}
        inner = {
            child
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            for child in ast.walk(node)
            if child is not node
        }
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node in inner:
                continue
            if _writes(node, loop=path.stem in {"reconcile", "sweep"}) and not _uses_audit(node, tellers):
                found.add(f"{relative(path)}:{node.name}")
    assert found - set(NO_ROW) == set(), "call audit.record in the write, or say above why it need not"
    assert set(NO_ROW) - found == set(), "these are gone: take them off the list"


def _writes(function: ast.AST, *, loop: bool) -> bool:
    """`….db.write(…)` and, in the reconcile loop, `self._write(…)` with something to do in the transaction."""
    return any(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and (
            (node.func.attr == "write" and ast.unparse(node.func.value).endswith(("db", "database")))
            or (node.func.attr == "_write" and loop)
        )
        for node in ast.walk(function)
    )


def _uses_audit(function: ast.AST, tellers: set[str]) -> bool:
    return any(
        (isinstance(node, ast.Attribute) and ast.unparse(node).startswith("audit.record"))
        or (isinstance(node, ast.Name) and node.id in tellers)
        for node in ast.walk(function)
    )


#: Names of what an attacker would guess, or would be told by how long a comparison takes.
SECRET_NAMES = re.compile(
    r"(^|_)(tokens?|secret|password|nonce|cookie|csrf|digest|fingerprint|signature|verifier|at_hash|sealed)$"
)
#: Comparisons by `==` that tell nobody anything, and why.
TELLS_NOTHING = {
    "gateway/cli/inside.py: sluice.token == before": "whether one's own token was renewed",
    "gateway/model/audit.py: row.get('hash') != digest(row)": "the chain is public: anybody computes it",
    "gateway/core/sessions.py: earlier != digest": "of a request of the caller's own, by their key",
    "gateway/store/tasks.py: row.idempotency_digest != digest": "of a request of the caller's own, by their key",
}


def test_secrets_are_compared_in_constant_time() -> None:
    """By `hmac.compare_digest`, or found by their digest: `==` on what is called like a secret stands in the list."""
    found = {
        f"{relative(path)}: {ast.unparse(node)}"
        for path in MODULES
        if "tests" not in path.parts
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Compare)
        and any(isinstance(operation, ast.Eq | ast.NotEq) for operation in node.ops)
        and not any(isinstance(side, ast.Constant) for side in (node.left, *node.comparators))
        and ".c." not in ast.unparse(node.left)  # the database looks for a row
        and any(SECRET_NAMES.search(_called(side)) for side in (node.left, *node.comparators))
    }
    assert found - set(TELLS_NOTHING) == set(), "hmac.compare_digest, or say above why it tells nothing"
    assert set(TELLS_NOTHING) - found == set(), "these are gone: take them off the list"


def _called(side: ast.expr) -> str:
    """The name of what is compared: `nonce`, `kept.nonce`, `kept["nonce"]`, `kept.get("nonce")`, `nonce(kept)`."""
    match side:
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.Subscript(slice=ast.Constant(value=str(name))):
            return name
        case ast.Call(func=ast.Attribute(attr="get"), args=[ast.Constant(value=str(name)), *_]):
            return name
        case ast.Call(func=function):
            return _called(function)
    return ""


def test_every_operation_that_changes_something_has_its_name_in_the_audit_log() -> None:
    operations = {
        operation["operationId"]
        for path in routes().openapi()["paths"].values()
        for method, operation in path.items()
        if method != "get"
    }
    assert operations == {*ACTIONS, *CHANGES_NOTHING}
    told = "".join(path.read_text() for path in (ROOT / "gateway/core").glob("*.py"))
    assert [action for action, _, _ in ACTIONS.values() if f'"{action}"' not in told] == []


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
    for folder in ("recipes", "sbatch_templates", "apptainer", "policies"):
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
