"""The HTTP application: routes, errors as JSON, and a line in the log for each request."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from maskrestore.errors import MaskRestoreError
from maskrestore.gateway import decision_routes, inference_routes, purify_routes
from maskrestore.gateway.errors import RESPONSES, RefusedError, described
from maskrestore.gateway.gateway import Gateway
from maskrestore.gateway.ids import new_id
from maskrestore.gateway.page_routes import mount_page
from maskrestore.runtime.environment import own_version

__all__ = ["make_app"]

_LOG = logging.getLogger("maskrestore.gateway.requests")
_DESCRIPTION = (
    "Labels of purified pictures, and a record of each decision. Clients of the Open Inference Protocol, version 2, "
    "change their address and nothing else."
)
_PROBES = ("/v2/health/live", "/v2/health/ready", "/v2/models/{model}/ready", "/metrics")
"""Routes that programs ask all the time."""
_THREADS = 32
_LOOPBACK = ["localhost", "127.0.0.1", "[::1]", "::1"]


def make_app(gateway: Gateway) -> FastAPI:
    """The application of a gateway."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # For decoding, decisions and health checks; what asks an upstream has threads of its own.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS))
        tasks = [asyncio.create_task(one) for one in gateway.tasks()]
        yield
        gateway.draining = True
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await gateway.close()

    app = FastAPI(
        title="maskrestore gateway", version=own_version(), description=_DESCRIPTION, lifespan=lifespan,
        responses=RESPONSES, docs_url=None, redoc_url=None,  # they load scripts from another host
    )  # fmt: skip
    app.state.gateway = gateway
    for routes in (inference_routes, purify_routes, decision_routes):
        app.include_router(routes.router)
    mount_page(app)
    app.add_exception_handler(MaskRestoreError, _refused)
    app.add_exception_handler(ValueError, _refused)  # of messages that do not keep to the protocol
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _failed)
    if not gateway.access.has_keys:
        # Without keys, a page of another site must not reach the loopback under a name of its own.
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=_LOOPBACK)
    app.add_middleware(_Observed, gateway=gateway)
    gateway.tracing.observe(app)
    return app


async def _refused(request: Request, error: Exception) -> JSONResponse:
    status, told, headers = described(error)
    if status == 500:
        request.app.state.gateway.metrics.unhandled()
        logging.getLogger(__name__).error("a request failed", exc_info=error)
    if status == 401:
        # Of a person at the address, a browser asks for the key; of the page, the page does.
        kind = "Bearer" if "x-requested-with" in request.headers else "Basic"
        headers["WWW-Authenticate"] = f'{kind} realm="maskrestore"'
    decisions = getattr(request.state, "decisions", None)
    if decisions:
        headers["Maskrestore-Decision"] = " ".join(decisions)
    else:
        request.app.state.gateway.metrics.refused(status)
    return JSONResponse({"error": told}, status, headers)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return await _refused(request, RefusedError(400, f"{'.'.join(map(str, first['loc']))}: {first['msg']}"))


async def _http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)


async def _failed(_: Request, error: Exception) -> JSONResponse:
    status, told, _headers = described(RuntimeError(str(error)))
    return JSONResponse({"error": told}, status)


class _Observed:
    """Gives each request an id, and counts and logs its answer."""

    def __init__(self, app: ASGIApp, gateway: Gateway) -> None:
        self._app, self._gateway = app, gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, identity = time.monotonic(), new_id()
        scope.setdefault("state", {}).update(request=identity, started=started)
        status = 499  # no answer was begun

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message.setdefault("headers", []).append((b"maskrestore-request", identity.encode()))
            await send(message)

        try:
            await self._app(scope, receive, answer)
        except Exception:
            status = 500
            self._gateway.metrics.unhandled()
            raise
        finally:
            seconds = time.monotonic() - started
            route = getattr(scope.get("route"), "path", "unknown")
            self._gateway.metrics.request(route, status, seconds)
            words = {"request": identity, "route": route, "status": status, "seconds": round(seconds, 4)}
            client = scope["client"][0] if scope.get("client") else None
            level = logging.DEBUG if route in _PROBES and status < 400 else logging.INFO
            _LOG.log(level, "request", extra={**words, "method": scope["method"], "client": client})
