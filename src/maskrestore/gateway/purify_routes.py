"""``POST /v1/purify``: an image file in, its label and what was removed out."""

from __future__ import annotations

import asyncio
import base64
import io
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.requests import Request
from torch import Tensor

from maskrestore.gateway.bodies import image_in, read_body
from maskrestore.gateway.gateway import Gateway
from maskrestore.gateway.inference_routes import caller_of, labelled
from maskrestore.gateway.outcomes import Outcome
from maskrestore.gateway.pictures import pictures_of_file
from maskrestore.gateway.records import Purified, Stage
from maskrestore.gateway.stages import stages_of
from maskrestore.imaging.codec import as_picture
from maskrestore.reporting.entries import entries_from

__all__ = ["FILE_BODY", "router"]

router = APIRouter(prefix="/v1", tags=["Pictures"])

FILE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}},
                }
            },
        },
    }
}
ModelName = Annotated[str | None, Query(description="Name of the model; may be left out if there is only one.")]


@router.post("/purify", summary="Purify an image file", openapi_extra=FILE_BODY)
async def purify(request: Request, model: ModelName = None, png: bool = False, stages: bool = False) -> Purified:
    """Purify an image file, of any format that maskrestore reads, and label it.

    It gets the size of the model first. ``png`` adds the purified picture, ``stages`` pictures of all stages. A picture
    that is not answered, since its answer would be in doubt, has no label in its decision, and ``abstained`` is true.
    """
    gateway: Gateway = request.app.state.gateway
    limits = gateway.config.limits
    with gateway.using(model) as found:
        tenant = gateway.access.client(request.headers, found.name)
        file = await image_in(request, await read_body(request, limits))
        picture = await asyncio.to_thread(pictures_of_file, file, view=found.view, most_pixels=limits.pixels)
        caller = caller_of(request, tenant, None)
        (outcome,) = await gateway.service.purify(found, [picture], caller, gateway.access)
        labelled(request, [outcome])
        shown = await asyncio.to_thread(_stages, picture, outcome) if stages else []
        image = await asyncio.to_thread(_png, outcome) if png else None
    return Purified(decision=outcome.decision, stages=shown, png=image)


def _png(outcome: Outcome) -> str | None:
    if outcome.purification is None:
        return None
    file = io.BytesIO()
    as_picture(outcome.purification.images[0]).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _stages(picture: Tensor, outcome: Outcome) -> list[Stage]:
    if outcome.purification is None:
        return []
    (entry,) = entries_from(picture[None], outcome.purification, names=["picture"])
    assert entry.evidence is not None
    return stages_of(entry.evidence)
