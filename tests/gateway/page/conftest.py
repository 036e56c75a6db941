"""The page in Chromium, in front of a model with a backdoor."""

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from faulty_server import Server, output
from gateway_clients import TROJAN
from gateway_runner import Running

Open = Callable[..., Any]
OTHER_NAME = "--host-resolver-rules=MAP gateway.test 127.0.0.1"
"""Unlike the loopback's, a name without HTTPS is no secure context to browsers."""


@pytest.fixture
def backdoor(server: Server) -> Server:
    """The upstream answers 6 where its patch is."""
    server.answer = lambda values: output(
        "FP32", [1, 8], np.eye(8)[TROJAN(torch.from_numpy(values.copy()))].ravel().tolist()
    )
    return server


@pytest.fixture(scope="module")  # no longer: the browser's event loop is that of this thread
def window() -> Iterator[Any]:
    """A page for all tests: each opened one costs half a second. Gateways, and so keys, have origins of their own."""
    playwright = pytest.importorskip("playwright.sync_api")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("Chromium is not installed")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu", OTHER_NAME])
        yield opened.new_page()
        opened.close()


@pytest.fixture
def visit(window: Any) -> Iterator[Open]:
    """Opens the page of a gateway: ``visit(gateway, width=390, color_scheme="dark")``. A script that fails fails."""
    failures: list[str] = []

    def note(error: object) -> None:
        failures.append(str(error))

    def opened(running: Running, *, width: int = 1280, host: str = "127.0.0.1", **media: Any) -> Any:
        window.set_viewport_size({"width": width, "height": 900})
        window.emulate_media(**{"color_scheme": "light", "reduced_motion": "no-preference", **media})
        window.goto(running.address.replace("127.0.0.1", host))
        return window

    window.set_default_timeout(10_000)
    window.on("pageerror", note)
    yield opened
    window.unroute_all()
    window.goto("about:blank")  # ends its streams
    window.remove_listener("pageerror", note)
    assert failures == []
