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


@pytest.fixture
def backdoor(server: Server) -> Server:
    """The upstream answers 6 where its patch is."""
    server.answer = lambda values: output(
        "FP32", [1, 8], np.eye(8)[TROJAN(torch.from_numpy(values.copy()))].ravel().tolist()
    )
    return server


@pytest.fixture(scope="module")  # no longer: the browser's event loop is that of this thread
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("Chromium is not installed")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Open]:
    """Opens the page: ``visit(gateway, color_scheme="dark", ...)``. A script that fails fails the test."""
    contexts, failures = [], []

    def opened(running: Running, **settings: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **settings})
        contexts.append(context)
        context.set_default_timeout(10_000)
        page = context.new_page()
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.goto(running.address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert failures == []
