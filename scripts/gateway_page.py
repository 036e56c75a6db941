"""Makes the pictures of the gateway's page in the docs: real decisions about street signs, some with a sticker.

python -m scripts.gateway_page [FOLDER]     needs Chromium; writes docs/images/gateway.png and gateway-phone.png
"""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import torch
from PIL import Image
from playwright.sync_api import sync_playwright

from maskrestore.lab.data.signs import load_signs
from maskrestore.lab.victims.packaged import load_packaged_victim

IMAGES = Path(__file__).parents[1] / "docs/images"
COLOURS = 256
"""Of the pictures in the docs, which stay small so."""
VICTIM = """
from maskrestore import ModuleClassifier
from maskrestore.lab.victims.packaged import load_packaged_victim

classify = ModuleClassifier(load_packaged_victim("signs-badnets").network)
"""


def signs() -> list[bytes]:
    """Files of signs; every fourth has the trigger."""
    clean = load_signs("test", count=36).images / 255
    shown = torch.where((torch.arange(len(clean)) % 4 == 3)[:, None, None, None], victim().attack.apply(clean), clean)
    files = []
    for sign in shown:
        file = io.BytesIO()
        Image.fromarray(sign.mul(255).round().byte().permute(1, 2, 0).numpy()).save(file, "PNG")
        files.append(file.getvalue())
    return files


def victim():
    return load_packaged_victim("signs-badnets")


@contextmanager
def gateway(folder: Path) -> Iterator[str]:
    """A gateway before the packaged victim; its address."""
    (folder / "victim.py").write_text(VICTIM)
    names = json.dumps(list(victim().class_names))
    (folder / "gateway.toml").write_text(f'[models.signs]\nclassifier = "victim:classify"\nclasses = {names}\n')
    (folder / "key").write_text("the key of a picture in the docs")
    options = ("--config", "gateway.toml", "--key-file", "key", "--port", "0")
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-m", "maskrestore", "serve", *options], cwd=folder, stderr=log)
    try:
        while not (found := re.search(r'"address": "(http://\S+)"', (folder / "log").read_text())):
            if process.poll() is not None:
                raise SystemExit((folder / "log").read_text())
            time.sleep(0.1)
        yield found[1]
    finally:
        process.terminate()
        process.wait()


def take(address: str, files: list[bytes], folder: Path) -> None:
    """Send the signs and take the pictures."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        desk = browser.new_page(viewport={"width": 1240, "height": 1000})
        desk.goto(address)
        for file in files:
            httpx.post(f"{address}/v1/purify", content=file, timeout=60, trust_env=False).raise_for_status()
        desk.set_input_files("#file", {"name": "sign.png", "mimeType": "image/png", "buffer": files[3]})
        desk.get_by_role("article", name="Result").wait_for()
        phone = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme="dark", device_scale_factor=1.5)
        phone.goto(address)
        phone.get_by_text("label changed").nth(1).click()
        for page, name in ((desk, "gateway.png"), (phone, "gateway-phone.png")):
            if page is phone:
                page.locator("#decisions").evaluate("(one) => one.scrollIntoView()")
            page.locator("#rows img").nth(3).wait_for()
            page.wait_for_timeout(2000)
            picture = Image.open(io.BytesIO(page.screenshot()))
            picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(folder / name, optimize=True)


def main() -> None:
    """Run the script."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES
    with tempfile.TemporaryDirectory() as name, gateway(Path(name)) as address:
        take(address, signs(), folder)


if __name__ == "__main__":
    main()
