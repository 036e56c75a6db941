"""``maskrestore serve --ray`` as a program: its address, its signals, and what it leaves behind."""

import signal
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import torch

pytest.importorskip("ray.serve", reason="needs the extra ray-serve")

from benchmarks.mlserver import free_port

from fakes import colour_labels, plain_images
from gateway_program import CONFIG, program, until
from maskrestore.gateway.config import DecisionsConfig
from maskrestore.gateway.decisions import DecisionStore, Filters

IMAGES = plain_images(16, size=32)


@pytest.fixture
def short_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """For Ray's sockets, whose paths are limited."""
    with tempfile.TemporaryDirectory(prefix="rs-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        yield


@pytest.mark.cluster
@pytest.mark.usefixtures("short_folder")
def test_answers_reloading_and_a_graceful_end(tmp_path: Path) -> None:
    options = ["--ray", "--replicas", "1:2", "--port", str(free_port())]
    with program(tmp_path, CONFIG, *options) as running:
        found = running.ask(IMAGES[:4])
        assert found.status_code == 200, found.text
        (scores,) = found.json()["outputs"]
        assert torch.tensor(scores["data"]).reshape(4, 8).argmax(dim=1).tolist() == colour_labels(IMAGES[:4]).tolist()
        assert found.headers["Maskrestore-Decision"].count(" ") == 3
        other = httpx.get(f"{running.address}/v2", headers={"Host": "evil.example"}, trust_env=False)
        assert other.status_code == 400, "without keys, a page of another site reaches nothing"

        def told(words: str) -> bool:
            return any(words in line["message"] for line in running.lines())

        (tmp_path / "gateway.toml").write_text(CONFIG + "[tenants.a]\n")
        running.process.send_signal(signal.SIGHUP)
        until(lambda: told("the configuration stays as it was"))
        more = CONFIG.replace("[models.colours]", '[models.more]\nclassifier = "toy_colours:colours"\n[models.colours]')
        (tmp_path / "gateway.toml").write_text(more)
        running.process.send_signal(signal.SIGHUP)
        until(lambda: told("the configuration was read again"))
        assert running.ask(IMAGES[:1], "more").json()["outputs"][0]["datatype"] == "INT64"

        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(running.ask, IMAGES[[place]]) for place in range(len(IMAGES))]
            until(lambda: any(one.done() for one in asked))
            running.process.send_signal(signal.SIGTERM)
            answers = [one.exception() or one.result() for one in asked]
        assert running.process.wait(60) == 0
    good = [one for one in answers if isinstance(one, httpx.Response)]
    assert all(isinstance(one, httpx.Response | httpx.TransportError) for one in answers)
    assert {one.status_code for one in good} <= {200, 404, 503}
    decided = {one.headers["Maskrestore-Decision"] for one in good if one.status_code == 200}
    store = DecisionStore(DecisionsConfig(path=tmp_path / "decisions.sqlite"))
    kept = store.page(Filters(), before=None, limit=100)
    store.close()
    assert decided
    assert decided <= {one.id for one in kept}
    assert "a secret" not in running.log.read_text()
