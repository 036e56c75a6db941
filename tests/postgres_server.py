"""A PostgreSQL server that a test starts, in a folder that is gone afterwards."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

PASSWORD = "a p@ss/word"


def programs() -> Path | None:
    """The folder with ``initdb`` and ``postgres``, of the newest version that is here."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda one: float(one.parts[-3]))
    found += [Path(one).resolve() for one in [shutil.which("postgres")] if one is not None]
    return next((one.parent for one in reversed(found) if (one.parent / "initdb").exists()), None)


class PostgresServer:
    """Runs as somebody without privileges, since it refuses to run as root."""

    def __init__(self, folder: Path) -> None:
        self._bin = programs()
        self._as = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.geteuid() == 0 else []
        self._data = folder / "data"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        (folder / "password").write_text(PASSWORD)
        if self._as:
            for one in (folder, folder / "password"):
                shutil.chown(one, "nobody", "nogroup")
        made = ["-D", self._data, "-U", "boss", "-A", "scram-sha-256", f"--pwfile={folder / 'password'}", "--no-sync"]
        self._run("initdb", *made, "--encoding=UTF8", "--locale=C.UTF-8")
        self.start()

    def start(self) -> None:
        settings = {"listen_addresses": "127.0.0.1", "port": self.port, "fsync": "off", "unix_socket_directories": ""}
        options = [text for name, value in settings.items() for text in ("-c", f"{name}={value}")]
        command = [*self._as, self._bin / "postgres", "-D", self._data, *options]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")
        end = time.monotonic() + 30
        while True:
            try:
                self.execute("SELECT 1")
            except Exception:
                assert self.process.poll() is None
                assert time.monotonic() < end
                time.sleep(0.05)
            else:
                return

    def stop(self) -> None:
        """At once: connections break."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(30)

    def url(self, more: str = "") -> str:
        return f"postgresql://boss:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/postgres{more}"

    def execute(self, query: str) -> list[tuple[object, ...]]:
        import psycopg

        with psycopg.connect(self.url(), autocommit=True) as db:
            found = db.execute(query.encode())
            return found.fetchall() if found.description else []

    def place(self) -> str:
        """The address of a place without tables."""
        name = f"test_{uuid.uuid4().hex}"
        self.execute(f"CREATE SCHEMA {name}")
        return self.url(f"?options=-csearch_path%3D{name}")

    def _run(self, program: str, *arguments: object) -> None:
        assert self._bin is not None
        command = [*self._as, self._bin / program, *map(str, arguments)]
        subprocess.run(command, check=True, capture_output=True, cwd="/")


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server with a password."""
    pytest.importorskip("psycopg", reason="needs the extra postgres")
    if programs() is None:
        pytest.skip("needs PostgreSQL's server: initdb and postgres")
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        os.chmod(folder, 0o755)
        server = PostgresServer(Path(folder))
        yield server
        server.stop()
