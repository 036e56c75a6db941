"""Bodies of requests: read within limits of size and time, and image files in them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from maskrestore.gateway.config import LimitsConfig
from maskrestore.gateway.errors import RefusedError

__all__ = ["gone", "image_in", "read_body"]


async def read_body(request: Request, limits: LimitsConfig) -> bytes:
    """The body of a request. Raises RefusedError if it is too large, too slow, compressed, or ends early."""
    coding = request.headers.get("content-encoding", "identity").lower()
    if coding != "identity":
        raise RefusedError(415, f"the body is compressed ({coding[:40]}); send it as it is")
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared) > limits.body_bytes:
        raise RefusedError(413, f"a body of {declared[:20]} bytes; expected at most {limits.body_bytes}")
    parts, size = [], 0
    try:
        async with asyncio.timeout(limits.body_timeout):
            async for part in request.stream():
                size += len(part)
                if size > limits.body_bytes:
                    raise RefusedError(413, f"a body of more than {limits.body_bytes} bytes")
                parts.append(part)
    except TimeoutError:
        raise RefusedError(408, f"the body took longer than {limits.body_timeout:g} s") from None
    except ClientDisconnect:
        raise RefusedError(499, "the client went away") from None
    return b"".join(parts)


async def image_in(request: Request, body: bytes) -> bytes:
    """The image file in a body: the body itself, or the field ``file`` of a form. Raises RefusedError."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        if not body:
            raise RefusedError(400, "expected an image file as the body, got nothing")
        return body

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        form = await MultiPartParser(request.headers, stream(), max_files=1, max_fields=8).parse()
    except (MultiPartException, KeyError, ValueError) as error:
        raise RefusedError(400, f"the form cannot be read: {getattr(error, 'message', error)}") from None
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise RefusedError(400, "expected a form with an image file in the field 'file'")
    return await file.read()


async def gone(request: Request) -> None:
    """Return when the client has gone away, after its body was read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
