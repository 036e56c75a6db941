"""The Open Inference Protocol over HTTP: what clients of the model server talk to."""

from __future__ import annotations

import asyncio
import functools
import math
import time
from collections.abc import Sequence
from contextvars import copy_context
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from starlette.requests import Request
from torch import Tensor

from maskrestore.classifiers.http_transport import TimeOver
from maskrestore.classifiers.open_inference_messages import BINARY_HEADER, json_bytes
from maskrestore.defense.doubt import ABSTAINED
from maskrestore.gateway.bodies import gone, read_body
from maskrestore.gateway.errors import AbstainedError, RefusedError, TimeOverError
from maskrestore.gateway.gateway import Gateway
from maskrestore.gateway.models import ShieldedModel
from maskrestore.gateway.outcomes import Caller, Outcome
from maskrestore.gateway.protocol import read_question, write_answer
from maskrestore.runtime.environment import own_version

__all__ = ["caller_of", "labelled", "router"]

router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])

_TENSOR = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "datatype": {"type": "string"},
        "data": {"type": "array", "items": {}},
        "parameters": {"type": "object"},
    },
}
_QUESTION = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "inputs": {"type": "array", "items": _TENSOR, "minItems": 1, "maxItems": 1},
        "outputs": {"type": "array", "items": {"type": "object"}},
        "parameters": {"type": "object"},
    },
}


@router.get("", summary="Metadata of the server")
async def server() -> dict[str, Any]:
    """Name, version and extensions."""
    return {"name": "maskrestore", "version": own_version(), "extensions": ["binary_tensor_data"]}


@router.get("/health/live", summary="Whether the gateway runs")
async def live() -> dict[str, bool]:
    """It answers, so it does."""
    return {"live": True}


@router.get("/health/ready", summary="Whether all models are ready")
async def ready(request: Request) -> JSONResponse:
    """Follows the upstreams."""
    gateway: Gateway = request.app.state.gateway
    return JSONResponse({"ready": gateway.ready}, 200 if gateway.ready else 503)


@router.get("/models/{model}/versions/{version}", include_in_schema=False)
@router.get("/models/{model}", summary="Metadata of a model", response_model=dict[str, Any])
async def metadata(request: Request, model: str, version: str | None = None) -> Response:
    """What clients send and get; ``parameters.scores`` says how labels are told."""
    with request.app.state.gateway.using(model) as found:
        _check_version(found, version)
        # Texts of the upstream may hold half a character; then so does the answer, as an escape sequence.
        return Response(json_bytes(found.interface.metadata), media_type="application/json")


@router.get("/models/{model}/versions/{version}/ready", include_in_schema=False)
@router.get("/models/{model}/ready", summary="Whether a model is ready")
async def model_ready(request: Request, model: str, version: str | None = None) -> JSONResponse:
    """Follows the upstream."""
    gateway: Gateway = request.app.state.gateway
    slot = gateway.slots.get(model)
    with gateway.using(model) as found:
        _check_version(found, version)
    is_ready = slot is not None and slot.reason is None and not gateway.draining
    return JSONResponse({"name": model, "ready": is_ready}, 200 if is_ready else 503)


@router.post("/models/{model}/versions/{version}/infer", include_in_schema=False)
@router.post(
    "/models/{model}/infer",
    summary="Labels of pictures",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": _QUESTION},
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            },
        }
    },
)
async def infer(request: Request, model: str, version: str | None = None) -> Response:
    """Purify the pictures of the request and answer as the model would.

    In JSON, or with tensors in bytes behind a JSON header (Inference-Header-Content-Length).

    The parameters maskrestore_doubtful and maskrestore_abstained of the answer, and headers of such names, list the
    places of pictures, from 0 on, whose answer is in doubt, and of those that are not answered for that reason; without
    any they are left out. A picture that is not answered has the label -1, or an empty text as its name. Where the
    output holds scores, or numbers that cannot be negative, the request gets the status 422 instead.
    """
    gateway: Gateway = request.app.state.gateway
    limits = gateway.config.limits
    tenant = gateway.access.client(request.headers, model)
    with gateway.using(model) as found:
        _check_version(found, version)
        content = await read_body(request, limits)
        read = functools.partial(read_question, content, request.headers.get(BINARY_HEADER), found, limits)
        question = await asyncio.to_thread(read)
        can_abstain = found.interface.can_abstain(found.classes)
        caller = caller_of(request, tenant, question.timeout, abstained=200 if can_abstain else AbstainedError.STATUS)
        outcomes = await gateway.service.purify(found, question.pictures, caller, gateway.access)
        labels = labelled(request, outcomes)
        abstained = _places(outcomes, "abstained")
        if abstained and not can_abstain:
            raise AbstainedError(abstained)
        if found.interface.answer == "upstream":
            outputs = await _upstream_outputs(found, outcomes, question.pictures, caller)
        else:
            values = found.interface.encode(labels, found.classes)
            outputs = {found.interface.output: (found.interface.answer_type, values)}
    decisions = " ".join(one.decision.id for one in outcomes)
    shielded = all(one.decision.shielded for one in outcomes)
    doubt = {"doubtful": _places(outcomes, "doubtful"), "abstained": abstained}
    doubt_told = {name: " ".join(map(str, places)) for name, places in doubt.items() if places}
    body, headers = write_answer(
        question, found, outputs, told={"decisions": decisions, "shielded": shielded, **doubt_told}
    )
    headers |= {"Maskrestore-Decision": decisions, "Maskrestore-Shielded": str(shielded).lower()}
    headers |= {f"Maskrestore-{name.capitalize()}": places for name, places in doubt_told.items()}
    return Response(body, headers=headers)


def caller_of(request: Request, tenant: str, timeout: float | None, *, abstained: int = 200) -> Caller:
    """Who asks. timeout: seconds that the client waits, if it says so; the gateway's own limit is the most.

    abstained: status of an answer about a picture that is not answered.
    """
    limits = request.app.state.gateway.config.limits
    wanted = request.headers.get("maskrestore-timeout")
    seconds = limits.timeout if timeout is None else min(limits.timeout, timeout)
    if wanted is not None:
        try:
            given = float(wanted)
        except ValueError:
            given = math.nan
        if not 0 < given < math.inf:
            raise RefusedError(400, f"expected a number of seconds in Maskrestore-Timeout, got {wanted[:40]!r}")
        seconds = min(seconds, given)
    return Caller(
        tenant=tenant, request=request.state.request, deadline=request.state.started + seconds,
        gone=functools.partial(gone, request), abstained=abstained,
    )  # fmt: skip


def labelled(request: Request, outcomes: Sequence[Outcome]) -> list[int]:
    """The labels of all pictures, ABSTAINED for those that are not answered since the answer would be in doubt.

    Raises the error of the first that failed; it is answered with all decisions.
    """
    request.state.decisions = [one.decision.id for one in outcomes]
    labels = []
    for one in outcomes:
        label = ABSTAINED if one.decision.abstained else one.decision.label
        if label is None:
            assert one.error is not None
            raise one.error
        labels.append(label)
    return labels


def _places(outcomes: Sequence[Outcome], name: Literal["doubtful", "abstained"]) -> list[int]:
    """Of the pictures in the request that are so."""
    return [place for place, one in enumerate(outcomes) if getattr(one.decision, name)]


async def _upstream_outputs(
    model: ShieldedModel, outcomes: Sequence[Outcome], pictures: Sequence[Tensor], caller: Caller
) -> dict[str, tuple[str, np.ndarray[Any, Any]]]:
    """Datatypes and values of the model's own outputs, which belong to the labels of the decisions.

    A picture is shown as it came if the model's plain label is answered: it could not be purified, or the answer is in
    doubt and the policy says so.
    """
    shown = [
        plain if one.purification is None or (one.decision.doubtful and model.config.on_doubt == "original")
        else one.purification.images[0]
        for one, plain in zip(outcomes, pictures, strict=True)
    ]  # fmt: skip
    try:
        left = max(0.0, caller.deadline - time.monotonic())
        ask = functools.partial(copy_context().run, model.upstream_outputs, shown, caller.deadline)
        asked = asyncio.get_running_loop().run_in_executor(model.threads, ask)
        return await asyncio.wait_for(asked, left)
    except (TimeoutError, TimeOver):
        raise TimeOverError() from None


def _check_version(model: ShieldedModel, version: str | None) -> None:
    address = model.config.classifier
    if version is not None and not address.rstrip("/").endswith(f"/versions/{version}"):
        raise RefusedError(404, f"the model {model.name!r} has no versions here; leave /versions/{version[:40]} out")
