"""Tables in pages, each between two comments: ``<!-- begin NAME -->`` and ``<!-- end NAME -->``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = ["Tables", "filled", "head", "line"]

Tables = Mapping[str, Callable[[], Iterable[str]]]
"""For each name, what makes the lines of the table."""


def filled(text: str, tables: Tables) -> str:
    """The text of a page with its tables made anew. Raises ValueError if a table has no place in it."""
    for name, lines in tables.items():
        content = "\n".join(lines())
        pattern = rf"(<!-- begin {name} -->\n).*?(\n<!-- end {name} -->)"
        text, places = re.subn(
            pattern, lambda found, content=content: found[1] + content + found[2], text, flags=re.DOTALL
        )
        if places != 1:
            raise ValueError(f"expected one pair of comments for the table {name}, found {places}")
    return text


def head(*names: str) -> Sequence[str]:
    """The first two lines of a table."""
    return line(*names), "|---" * len(names) + "|"


def line(*cells: str) -> str:
    """A line of a table."""
    return f"| {' | '.join(cells)} |"
