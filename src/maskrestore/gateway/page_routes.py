"""The page of the gateway: files of the package. It holds nothing of the gateway; it asks for that with the key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

import maskrestore.reporting

__all__ = ["mount_page"]

_FOLDER = Path(__file__).parent / "page"
_REPORT_STYLE = Path(maskrestore.reporting.__file__).parent / "report.css"
_HEADERS = {
    # No scripts and styles but the page's own, no other host, and no markup made from text.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src blob: data:; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # asks whether there is a newer one
}


class _PageFiles(StaticFiles):
    def file_response(self, *args: Any, **more: Any) -> Response:
        response = super().file_response(*args, **more)
        response.headers.update(_HEADERS)
        return response


def mount_page(app: FastAPI) -> None:
    """Serve the page at ``/``, and its files."""

    @app.get("/", include_in_schema=False)
    async def index() -> FileResponse:
        return FileResponse(_FOLDER / "index.html", headers=_HEADERS)

    @app.get("/page/report.css", include_in_schema=False)
    async def report_style() -> FileResponse:
        return FileResponse(_REPORT_STYLE, headers=_HEADERS)

    app.mount("/page", _PageFiles(directory=_FOLDER))
