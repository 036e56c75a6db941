"""Lets mkdocstrings read this project's docstrings, which name parameters in plain sentences.

``classifier: a function. key: a secret.`` becomes a list, and ``:func:`name``` becomes code.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

__all__ = ["PlainDocstrings"]

_ROLE = re.compile(r":\w+:`~?([\w.]+)`")


class PlainDocstrings(griffe.Extension):
    """Rewrites each docstring before it is rendered."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for every module, class, function and attribute."""
        if obj.docstring is not None:
            text = _ROLE.sub(r"`\1`", obj.docstring.value)
            names = {parameter.name for parameter in obj.parameters} if isinstance(obj, griffe.Function) else set()
            obj.docstring.value = _listed(text, names) if names else text


def _listed(text: str, names: set[str]) -> str:
    """Begin a list item wherever a sentence begins with names of parameters and a colon."""

    def item(match: re.Match[str]) -> str:
        found = [name.strip() for name in match["names"].split(",")]
        if not names.issuperset(found):
            return match[0]
        return f"{match['end']}\n\n- {', '.join(f'**`{name}`**' for name in found)}: "

    return re.sub(r"(?P<end>^|\.|\n)\s*(?P<names>\w+(?:,\s+\w+)*):\s", item, text)
