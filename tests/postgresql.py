"""A real PostgreSQL server of this run's own: Debian's programs, on a Unix socket in a folder of its own."""

import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

PATIENCE = 120.0
TEMPLATE = "sluice_template"
# Nothing has to outlive the machine, so nothing waits for the disk.
FAST = {"fsync": "off", "full_page_writes": "off", "shared_buffers": "32MB", "max_wal_size": "256MB"}


class Server:
    """One server. Every database on it may be reached without a password, but for the user `guarded`."""

    def __init__(self, programs: Path, folder: Path, prefix: Sequence[str]) -> None:
        self._programs, self._folder, self._prefix = programs, folder, prefix
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = count()

    def make(self) -> None:
        """Make the data folder."""
        init = [self._programs / "initdb", "-D", self._data, "-U", "sluice", "-A", "trust", "-E", "UTF8"]
        command = [*self._prefix, *map(str, init), "--locale=C.UTF-8", "--no-sync", "--no-instructions"]
        subprocess.run(command, check=True, cwd=self._folder, stdout=subprocess.DEVNULL)
        rules = self._data / "pg_hba.conf"
        rules.write_text(f"local all guarded scram-sha-256\n{rules.read_text()}")

    def start(self) -> None:
        """Start it; returns when it answers."""
        settings = {**FAST, "listen_addresses": "", "unix_socket_directories": self._folder}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        # It must not outlive a test run that is killed.
        command = [
            *self._prefix,
            "--pdeathsig",
            "QUIT",
            str(self._programs / "postgres"),
            "-D",
            str(self._data),
            *options,
        ]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, cwd=self._folder, stdout=log, stderr=log)
        until_answered(self, self._process)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: end all connections and shut down. SIGQUIT: drop everything, and recover at the next start."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(PATIENCE)
            self._process = None

    def restart(self, how: signal.Signals = signal.SIGINT) -> None:
        self.stop(how)
        self.start()

    def run(self, statement: str) -> None:
        """A statement on the administrative database, outside of any transaction."""
        with psycopg.connect(self.conninfo, autocommit=True) as connection:
            connection.execute(statement.encode())

    def fresh(self, template: str = TEMPLATE) -> str:
        """A new database like the template; its SQLAlchemy address."""
        name = f"t{next(self._numbers)}"
        self.run(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def url(self, database: str, user: str = "sluice") -> str:
        return f"postgresql+psycopg://{user}@/{database}?host={quote(str(self._folder), safe='')}"

    def said(self) -> str:
        return (self._folder / "log").read_text()[-2000:]

    @property
    def conninfo(self) -> str:
        return f"host={self._folder} user=sluice dbname=postgres connect_timeout=60"

    @property
    def _data(self) -> Path:
        return self._folder / "data"


def until_answered(server: Server, process: "subprocess.Popen[bytes]") -> None:
    """Wait until the server takes connections."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            psycopg.connect(server.conninfo).close()
        except psycopg.OperationalError as error:
            if process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"PostgreSQL does not start:\n{server.said()}") from error
            time.sleep(0.02)
        else:
            return


@contextmanager
def serving() -> Iterator[Server]:
    """A running server, gone at the end with all that it held."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(re.sub(r"\D", "", str(path)) or 0))
    if not found:
        pytest.fail("PostgreSQL is not installed: make system (Debian's package postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="sluice-postgresql-"))
    server = Server(found[-1], folder, as_ordinary_user(folder))
    try:
        server.make()
        server.start()
        yield server
    finally:
        server.stop(signal.SIGQUIT)  # what it would write on the way out takes a slow disk minutes, and goes anyhow
        shutil.rmtree(folder)


def as_ordinary_user(folder: Path) -> list[str]:
    """The words before a command that make it run as a user that PostgreSQL accepts, which gets the folder."""
    if os.geteuid() != 0:
        return ["setpriv"]
    user = pwd.getpwnam("postgres")
    os.chown(folder, user.pw_uid, user.pw_gid)
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
