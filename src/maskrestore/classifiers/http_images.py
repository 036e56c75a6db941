"""Endpoints of their own kind: how a picture gets into a request, and the label out of the reply."""

from __future__ import annotations

import base64
import io
import json
from typing import Any, Literal

from torch import Tensor

from maskrestore.classifiers.http_transport import parsed_json
from maskrestore.errors import ClassifierOutputError, ConfigError, MissingDependencyError
from maskrestore.imaging.codec import as_picture

__all__ = ["BODIES", "BodyTemplate", "LabelPath", "encoded"]

BODIES = ("png", "jpeg")
_PLACES = {"{image_base64}": "png", "{jpeg_base64}": "jpeg"}
_QUALITY = 95


class BodyTemplate:
    """The body of a request: the bytes of an image file, or JSON with the file in base64."""

    def __init__(self, template: str) -> None:
        """template: ``png``, ``jpeg``, or JSON with ``{image_base64}`` (a PNG) or ``{jpeg_base64}`` in a text.

        Raises ConfigError for anything else.
        """
        self._template = template
        if template in BODIES:
            self.content_type = f"image/{template}"
            return
        self.content_type = "application/json"
        if not any(place in template for place in _PLACES):
            raise ConfigError(
                f"expected a body of png, jpeg, or JSON that holds {' or '.join(_PLACES)}, got {template[:200]!r}"
            )
        try:
            json.loads(self._filled(dict.fromkeys(_PLACES, "AA==")))
        except ValueError as error:
            raise ConfigError(
                f'the body is not JSON: {error}; expected e.g. {{"image": "{{image_base64}}"}}, got {template[:200]!r}'
            ) from None

    def __call__(self, picture: Tensor) -> bytes:
        """The body for a picture ``(C, H, W)`` in [0, 1], which is rounded to 8 bits."""
        if self._template in BODIES:
            return encoded(picture, self._template)  # type: ignore[arg-type]
        files = {
            place: base64.b64encode(encoded(picture, kind)).decode()  # type: ignore[arg-type]
            for place, kind in _PLACES.items()
            if place in self._template
        }
        return self._filled(files).encode()

    def _filled(self, texts: dict[str, str]) -> str:
        filled = self._template
        for place, text in texts.items():
            filled = filled.replace(place, text)
        return filled


class LabelPath:
    """Where in a JSON reply the label is: a JMESPath expression."""

    def __init__(self, expression: str) -> None:
        """Raises ConfigError for an expression that is none, MissingDependencyError without the package jmespath."""
        self.expression = expression
        self._compiled()

    def __call__(self, content: bytes) -> Any:
        """The value at the path. Raises ClassifierOutputError if there is none, or if the reply is not JSON."""
        reply = parsed_json(content)
        try:
            value = self._compiled().search(reply)
        except Exception as error:  # functions of JMESPath, such as max_by, refuse values of other types
            raise ClassifierOutputError(
                f"the path {self.expression!r} does not fit the reply {json.dumps(reply)[:200]}: {error}"
            ) from None
        if value is None:
            raise ClassifierOutputError(
                f"there is nothing at {self.expression!r} in the reply {json.dumps(reply)[:200]}"
            )
        return value

    def _compiled(self) -> Any:
        try:
            import jmespath  # noqa: PLC0415 - an optional extra
        except ImportError as error:
            raise MissingDependencyError("jmespath", "http") from error
        try:
            return jmespath.compile(self.expression)  # kept by jmespath
        except jmespath.exceptions.JMESPathError as error:
            raise ConfigError(
                f"{self.expression!r} is no JMESPath, such as predictions[0].label: {' '.join(str(error).split())}"
            ) from None


def encoded(picture: Tensor, kind: Literal["png", "jpeg"]) -> bytes:
    """A picture ``(C, H, W)`` in [0, 1] as an image file."""
    file = io.BytesIO()
    options: dict[str, Any] = {"quality": _QUALITY, "subsampling": 0} if kind == "jpeg" else {"compress_level": 1}
    as_picture(picture.cpu()).save(file, kind.upper(), **options)
    return file.getvalue()
