"""A sheet of text cells as Markdown or LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Sheet", "bold"]

_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "×": r"$\times$",
}


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A table of texts. Text within ``**`` is bold."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self, *, level: int = 3) -> str:
        """Return a Markdown table under a heading of this level."""
        lines = [self.heads, ("---", *["---:"] * (len(self.heads) - 1)), *self.rows]
        body = "\n".join(f"| {' | '.join(text.replace('|', '/') for text in line)} |" for line in lines)
        return f"{'#' * level} {self.title}\n\n{body}\n"

    def latex(self, caption: str) -> str:
        """Return a LaTeX table with a caption. It needs the package ``booktabs``."""
        columns = "l" + "r" * (len(self.heads) - 1)
        return "\n".join(
            [
                "\\begin{table}",
                "\\centering",
                f"\\caption{{{_escaped(caption)}}}",
                f"\\begin{{tabular}}{{{columns}}}",
                "\\toprule",
                _latex_line(self.heads),
                "\\midrule",
                *(_latex_line(row) for row in self.rows),
                "\\bottomrule",
                "\\end{tabular}",
                "\\end{table}",
                "",
            ]
        )


def bold(text: str) -> str:
    """Mark a text as bold."""
    return f"**{text}**"


def _latex_line(cells: Sequence[str]) -> str:
    # LaTeX reads a bracket at the start of a line as an option of the line break before it.
    return " & ".join("{}" + text if text.startswith("[") else text for text in map(_escaped, cells)) + r" \\"


def _escaped(text: str) -> str:
    parts = re.split(r"\*\*(.+?)\*\*", text)  # every second part was within ** marks
    escaped = ["".join(_LATEX.get(character, character) for character in part) for part in parts]
    return "".join(f"\\textbf{{{part}}}" if place % 2 else part for place, part in enumerate(escaped))
