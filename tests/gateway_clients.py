"""A model with a backdoor behind a gateway, and what clients send to it."""

import io

import torch
from PIL import Image

from fakes import PatchTriggerClassifier, plain_images
from gateway_runner import Running

TROJAN = PatchTriggerClassifier(target=6)
CLEAN = plain_images(2, seed=4)
MARKED = TROJAN.stamp(CLEAN)
WITHIN = {"classifier": "gateway_clients:TROJAN", "class_count": 8}
"""The model in the process of the gateway."""


def png(image: torch.Tensor) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image.mul(255).round().byte().permute(1, 2, 0).numpy()).save(file, "PNG")
    return file.getvalue()


def send(running: Running, *images: torch.Tensor, key: str | None = None) -> None:
    """What clients do, one after the other."""
    for image in images:
        running.client.post("/v1/purify", content=png(image), headers={} if key is None else {"X-API-Key": key})
