"""Lines and panels of figures: a defense over one of its settings, or over the size of a trigger."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from maskrestore.defense.profiles import PROFILES
from maskrestore.lab.paper.cells import Case, Variant
from maskrestore.lab.paper.defense_rows import variant
from maskrestore.lab.paper.layouts import Line, Panel, Point, Row
from maskrestore.runtime.settings import setting

__all__ = ["refinement_steps", "sizes", "sweeps", "threshold_sets", "thresholds"]


def refinement_steps(steps: float) -> dict[str, Any]:
    """The settings for so many steps; 0: no refinement."""
    return {"refinement.steps": steps} if steps else {"refinement": None}


def _sweep(name: str, values: Iterable[float], case: Case, fixed: Mapping[str, Any]) -> Line:
    """A line of the paper's profile over one of its settings."""

    def changed(value: float) -> dict[str, Any]:
        return refinement_steps(value) if name == "refinement.steps" else {name: value}

    points = (
        Point(x=value, case=case, variant=variant("bdmae-paper", {**changed(value), **fixed})) for value in values
    )
    return Line(label=case.label, points=tuple(points))


def sweeps(
    title: str, name: str, values: Iterable[float], cases: Iterable[Case], fixed: Mapping[str, Any] | None = None
) -> Panel:
    """A panel of the paper's profile over one of its settings, with a line for each case."""
    chosen = tuple(values)
    lines = tuple(_sweep(name, chosen, case, fixed or {}) for case in cases)
    return Panel(title=title, x_label=_SYMBOLS[name], lines=lines, standard=float(setting(PROFILES["paper"], name)))


_SYMBOLS = {
    "masks.rounds": "rounds of masks, $N_o$",
    "refinement.steps": "refinement steps, $N_r$",
    "refinement.neighbour_bonus": "bonus of neighbours, $u$",
    "refinement.rate": "refinement rate, $\\beta_0$",
    "masks.hidden_ratio": "share of tokens hidden",
    "refinement.candidate_threshold": "threshold of candidates",
    "restoration.max_restored": "largest share restored",
    "scores.ssim_window": "side of the SSIM window",
}
_TAUS = tuple(round(0.1 * tenth, 1) for tenth in range(1, 10))


def thresholds(case: Case, *, refined: bool) -> Line:
    """Return a line of figure 5d: one fixed threshold instead of five, without a limit on the restored share."""
    points = (
        Point(
            x=tau,
            case=case,
            variant=variant(
                "bdmae-paper",
                {
                    "restoration.thresholds": (tau,),
                    **refinement_steps(10 if refined else 0),
                    "restoration.max_restored": 1.0,
                },
            ),
        )
        for tau in _TAUS
    )
    label = f"{case.label}, {'after' if refined else 'before'} refinement"
    return Line(label=label, points=tuple(points), dashed=not refined)


def threshold_sets(case: Case) -> Line:
    """Return a line over the paper's five thresholds, all shifted by the same amount."""
    points = (
        Point(
            x=low,
            case=case,
            variant=Variant(
                defense="bdmae-paper",
                settings=(("restoration.thresholds", tuple(round(low + 0.05 * step, 2) for step in (4, 3, 2, 1, 0))),),
            ),
        )
        for low in (0.2, 0.3, 0.4, 0.5, 0.6)
    )
    return Line(label=case.label, points=tuple(points))


def sizes(row: Row) -> Line:
    """Return a line of figure A.2: a defense over the side of a checkerboard."""
    points = (
        Point(
            x=side,
            case=Case(dataset="cifar10", attack=f"badnets:{side}x{side}-checkerboard"),
            variant=row.variants[0],
        )
        for side in (1, 2, 3, 5, 7)
    )
    return Line(label=row.label, points=tuple(points))
