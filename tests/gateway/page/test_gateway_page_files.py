"""What the page is made of, without a browser."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

import maskrestore.gateway
from faulty_server import Server, says
from gateway_clients import CLEAN, MARKED, png, send
from gateway_runner import Running
from maskrestore.gateway.access import new_key
from maskrestore.runtime.digests import digest_of_key

Start = Callable[..., Running]
FOLDER = Path(maskrestore.gateway.__file__).parent / "page"


def test_every_file_that_the_page_names_is_served_with_its_policy(gateway: Start) -> None:
    client = gateway().client
    index = client.get("/")
    assert index.headers["Content-Type"].startswith("text/html")
    named = set(re.findall(r'(?:href|src)="(page/[^"]+)"', index.text))
    for module in FOLDER.glob("*.js"):
        named |= {f"page/{name}" for name in re.findall(r'from "\./([^"]+)"', module.read_text())}
    assert named == {f"page/{path.name}" for path in FOLDER.iterdir() if path.suffix != ".html"} | {"page/report.css"}
    for name in ("", *named):
        found = client.get(name)
        assert found.status_code == 200, name
        policy = found.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in policy
        assert found.headers["X-Content-Type-Options"] == "nosniff"
    assert client.get("/page/../gateway.py").status_code == 404
    assert client.get("/page/%2e%2e/gateway.py").status_code == 404


@pytest.mark.parametrize("path", sorted(FOLDER.iterdir()), ids=lambda path: path.name)
def test_nothing_comes_from_another_host_or_becomes_markup(path: Path) -> None:
    text = path.read_text()
    assert set(re.findall(r"https?://[^\s\"'`]*", text)) <= {"http://www.w3.org/2000/svg"}  # a namespace
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|\son\w+=", text)


def test_stages_of_a_decision_are_those_of_its_picture(backdoor: Server, gateway: Start) -> None:
    running = gateway(decisions={"recent": 1})
    made = running.client.post("/v1/purify?stages=true", content=png(MARKED[0])).json()
    address = f"/v1/decisions/{made['decision']['id']}/stages"
    assert running.client.get(address).json() == made["stages"]
    send(running, CLEAN[0])  # the pictures of the first are not kept any more
    left = running.client.get(address).json()
    assert [one["title"] for one in left] == [
        one["title"] for one in made["stages"] if one["title"] not in ("Input", "Purified", "Removed")
    ]
    hidden = next(one for one in left if one["title"] == "Hidden")
    assert hidden["picture"] not in [one["picture"] for one in made["stages"]], "on grey"
    assert running.client.get("/v1/decisions/0/stages").status_code == 404
    backdoor.faults = [says(500, b"")]
    send(running, CLEAN[0])
    (failed,) = running.client.get("/v1/decisions?errors=true").json()["decisions"]
    assert running.client.get(f"/v1/decisions/{failed['id']}/stages").json() == []


def test_pictures_are_not_left_in_the_browsers_cache(backdoor: Server, gateway: Start) -> None:
    running = gateway()
    send(running, MARKED[0])
    (made,) = running.client.get("/v1/decisions").json()["decisions"]
    found = running.client.get(f"/v1/decisions/{made['id']}/before.png")
    assert (found.status_code, found.headers["Cache-Control"]) == (200, "no-store")


def test_the_page_asks_for_the_key_itself(gateway: Start) -> None:
    running = gateway(operator={"key_hash": digest_of_key(new_key())})
    assert running.client.get("/").status_code == 200
    for headers, kind in (
        ({}, "Basic"),
        ({"X-Requested-With": "maskrestore"}, "Bearer"),
    ):
        found = running.client.get("/v1/status", headers=headers)
        assert (found.status_code, found.headers["WWW-Authenticate"]) == (401, f'{kind} realm="maskrestore"')
