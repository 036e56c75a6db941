"""What the operator sees: decisions, statistics, metrics. ``records.py`` describes the JSON."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Query
from fastapi.responses import Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request

from maskrestore.gateway.access import OPERATOR
from maskrestore.gateway.bodies import image_in, read_body
from maskrestore.gateway.decisions import Filters, KeptDecision
from maskrestore.gateway.errors import RefusedError
from maskrestore.gateway.gateway import Gateway
from maskrestore.gateway.inference_routes import caller_of, labelled
from maskrestore.gateway.pictures import content_of, pictures_of_file
from maskrestore.gateway.purify_routes import FILE_BODY
from maskrestore.gateway.records import Decision, DecisionPage, DecisionWithMaps, Replay, Stage, Statistics, Status
from maskrestore.gateway.stages import evidence_of, stages_of
from maskrestore.reporting.pictures import png_bytes

__all__ = ["router"]

_KEEP_ALIVE = 10.0
"""Seconds after which a stream without decisions sends a comment."""
_LOOK = 0.5
"""Seconds between two looks whether the gateway is about to end."""
_CAUGHT_UP = 500
"""Decisions at most that a stream begins with, behind ``Last-Event-ID``."""

_RESULT = ("original_label", "purified_label", "label", "queries", "restored", "result", "error")
_DEPENDS_ON = ("version", "classifier", "config_digest", "key_fingerprint")


async def _operator(request: Request) -> None:
    gateway: Gateway = request.app.state.gateway
    gateway.access.check_operator(request.headers)


router = APIRouter(tags=["Operator"], dependencies=[Depends(_operator)])


def _filters(
    *,
    changed: bool | None = None,
    doubtful: Annotated[bool | None, Query(description="Whether the answer is in doubt.")] = None,
    errors: bool | None = None,
    unshielded: bool | None = None,
    suspicion: Annotated[float | None, Query(ge=0, le=1, description="The least suspicion.")] = None,
    model: str | None = None,
    tenant: str | None = None,
) -> Filters:
    return Filters(
        changed=changed, doubtful=doubtful, errors=errors, unshielded=unshielded, suspicion=suspicion, model=model,
        tenant=tenant,
    )  # fmt: skip


Chosen = Annotated[Filters, Depends(_filters)]


@router.get("/v1/decisions", summary="Decisions, the newest first")
async def decisions(
    request: Request,
    filters: Chosen,
    before: str | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> DecisionPage:
    """A page of decisions; ``before`` is the id that the last page ended with."""
    store = request.app.state.gateway.store
    found = await asyncio.to_thread(functools.partial(store.page, filters, before=before, limit=limit))
    return DecisionPage(decisions=found, next=found[-1].id if len(found) == limit else None)


@router.get("/v1/decisions/stream", summary="New decisions as server-sent events")
async def stream(
    request: Request, filters: Chosen, last_event_id: Annotated[str | None, Header()] = None
) -> StreamingResponse:
    """Events ``decision`` with a decision each."""
    return StreamingResponse(
        _events(request, filters, last_event_id), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
    )


async def _events(request: Request, filters: Filters, last: str | None) -> AsyncIterator[str]:
    gateway: Gateway = request.app.state.gateway
    queue = gateway.service.listen()
    try:
        yield "retry: 2000\n\n"
        if last is not None:
            missed = functools.partial(gateway.store.page, filters, before=None, after=last, limit=_CAUGHT_UP)
            for one in await asyncio.to_thread(missed):
                yield _event(one)
        quiet, end = 0.0, time.monotonic() + gateway.stream_seconds
        while not gateway.draining and time.monotonic() < end:  # a client that goes away ends this, too
            try:
                one = await asyncio.wait_for(queue.get(), _LOOK)
            except TimeoutError:
                quiet += _LOOK
                if quiet >= _KEEP_ALIVE:
                    quiet = 0.0
                    yield ": nothing new\n\n"
                continue
            if filters.matches(one):
                yield _event(one)
    finally:
        gateway.service.forget(queue)


def _event(one: Decision) -> str:
    return f"event: decision\nid: {one.id}\ndata: {one.model_dump_json()}\n\n"


@router.get("/v1/decisions/{decision}", summary="A decision with its maps")
async def decision_with_maps(request: Request, decision: str) -> DecisionWithMaps:
    """404 if it is not kept any more."""
    kept = await _kept(request, decision)
    maps = {name: values.astype(float).round(6).tolist() for name, values in kept.maps.items()}
    return DecisionWithMaps(**kept.decision.model_dump(), maps=maps)


@router.get("/v1/decisions/{decision}/stages", summary="Pictures of the stages of a decision")
async def stages(request: Request, decision: str) -> list[Stage]:
    """As ``POST /v1/purify?stages=true`` had them; without the pictures themselves if they are not kept."""
    kept = await _kept(request, decision)
    if not kept.maps:  # it failed
        return []
    store = request.app.state.gateway.store
    pictures = {name: await asyncio.to_thread(store.picture, decision, name) for name in ("before", "after")}
    pictures = {name: found for name, found in pictures.items() if found is not None}
    kept = dataclasses.replace(kept, pictures=pictures)
    return await asyncio.to_thread(stages_of, evidence_of(kept), pictured=len(pictures) == 2)


@router.get(
    "/v1/decisions/{decision}/{name}.png",
    summary="A picture of a decision",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}}},
)
async def picture(request: Request, decision: str, name: Literal["before", "after", "removed"]) -> Response:
    """As it came, purified, or what was removed; 404 if it is not kept."""
    found = await asyncio.to_thread(request.app.state.gateway.store.picture, decision, name)
    if found is None:
        raise RefusedError(404, "this picture is not kept")
    content = await asyncio.to_thread(png_bytes, found)
    return Response(content, media_type="image/png", headers={"Cache-Control": "no-store"})


@router.post("/v1/decisions/{decision}/replay", summary="Make a decision again", openapi_extra=FILE_BODY)
async def replay(request: Request, decision: str) -> Replay:
    """Takes the picture again, and says what differs. 409 if it is another picture."""
    gateway: Gateway = request.app.state.gateway
    limits = gateway.config.limits
    then = (await _kept(request, decision)).decision
    with gateway.using(then.model) as model:
        file = await image_in(request, await read_body(request, limits))
        picture = await asyncio.to_thread(pictures_of_file, file, view=model.view, most_pixels=limits.pixels)
        picture = picture[:1] if then.channels == 1 else picture
        content = content_of(picture)
        if content != then.content:
            raise RefusedError(409, f"the decision is about the picture {then.content}, this one is {content}")
        caller = caller_of(request, OPERATOR, None)
        (outcome,) = await gateway.service.purify(model, [picture], caller, gateway.access, keep=False)
        labelled(request, [outcome])
    now = outcome.decision
    differences = _differences(then, now, _RESULT)
    return Replay(
        same=not differences, differences=differences, changed=_differences(then, now, _DEPENDS_ON), decision=then,
        replayed=now,
    )  # fmt: skip


@router.get("/v1/statistics", summary="Counts, queries and seconds over time")
async def statistics(request: Request, minutes: Annotated[float, Query(gt=0, le=100_000)] = 60) -> Statistics:
    """In at most 60 pieces."""
    buckets = await asyncio.to_thread(request.app.state.gateway.store.statistics, minutes)
    return Statistics(minutes=minutes, buckets=buckets)


@router.get("/v1/status", summary="Models and queues now")
async def status(request: Request) -> Status:
    """For the page."""
    gateway: Gateway = request.app.state.gateway
    return gateway.status()


@router.get("/metrics", summary="Metrics for Prometheus", response_class=Response)
async def metrics(request: Request) -> Response:
    """In Prometheus' text format."""
    gateway: Gateway = request.app.state.gateway
    return Response(gateway.metrics_text(), media_type=CONTENT_TYPE_LATEST)


async def _kept(request: Request, decision: str) -> KeptDecision:
    kept = await asyncio.to_thread(request.app.state.gateway.store.get, decision)
    if kept is None:
        raise RefusedError(404, "there is no decision of this id, or it is not kept any more")
    return kept  # type: ignore[no-any-return]


def _differences(then: Decision, now: Decision, names: tuple[str, ...]) -> dict[str, tuple[Any, Any]]:
    pairs = {name: (getattr(then, name), getattr(now, name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
