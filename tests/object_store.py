"""A server of S3 on this machine, as fixtures."""

import socket
import subprocess
import time
import uuid
from collections.abc import Iterator

import pyarrow.fs
import pytest
from benchmarks.mlserver import free_port

from mlserver_runner import environment_with


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory) -> Iterator[int]:
    """The port of an S3 server on this machine. moto is in an environment of its own: its pins do not fit ours."""
    programs = environment_with("moto[server]>=5", "MASKRESTORE_TEST_MOTO")
    port, log = free_port(), tmp_path_factory.mktemp("moto") / "log"
    with log.open("w") as output:
        command = [programs / "moto_server", "-H", "127.0.0.1", "-p", str(port)]
        server = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
        yield port
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def bucket(s3_server, monkeypatch):
    """The file system of that server with an empty bucket of a random name, and the options of its URLs."""
    for name, value in (("ACCESS_KEY_ID", "testing"), ("SECRET_ACCESS_KEY", "testing")):
        monkeypatch.setenv(f"AWS_{name}", value)
    name = f"pictures-{uuid.uuid4()}"
    options = f"?endpoint_override=127.0.0.1:{s3_server}&scheme=http&region=us-east-1&allow_bucket_creation=true"
    files, _ = pyarrow.fs.FileSystem.from_uri(f"s3://{name}/{options}")
    files.create_dir(name)
    return name, files, options
