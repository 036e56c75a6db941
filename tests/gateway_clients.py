"""A model with a backdoor behind a gateway, and what clients send to it."""

import io

import torch
from PIL import Image

from fakes import PatchTriggerClassifier, plain_images
from gateway_runner import Running

TROJAN = PatchTriggerClassifier(target=6)
CLEAN = plain_images(2, seed=4)
MARKED = TROJAN.stamp(CLEAN)


def png(image: torch.Tensor) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image.mul(255).round().byte().permute(1, 2, 0).numpy()).save(file, "PNG")
    return file.getvalue()


def send(running: Running, *images: torch.Tensor, key: str | None = None) -> None:
    """What a client does, in one request."""
    batch = torch.stack(images)
    entry = {"name": "image", "datatype": "FP32", "shape": list(batch.shape), "data": batch.flatten().tolist()}
    headers = {} if key is None else {"X-API-Key": key}
    running.client.post("/v2/models/colours/infer", json={"inputs": [entry]}, headers=headers)
