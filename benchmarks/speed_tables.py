"""Show the record of ``benchmarks.speed`` as Markdown tables."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.stages import STAGES

__all__ = ["precision_note", "rows_of", "table"]

HEAD = (
    "case",
    "schedule",
    "images",
    "s/image",
    "times as fast",
    "of the matmul rate",
    "queries",
    "... median, clean",
    "passes",
    "clean, right",
    "triggered, right",
    "triggered, attacker's",
    "TFLOP as ViT-B",
)
PROFILE_HEAD = (
    "case",
    "schedule",
    "precision",
    "passes, filling included",
    "TFLOP an image",
    "GFLOP/s",
    "of the matmul rate, one thread",
    *STAGES,
)


def table(record: dict[str, Any]) -> str:
    """Two tables: speed and accuracy of each contender, and the time of the parts of maskrestore."""
    environment = record["environment"]
    where = f"{environment['accelerator'] or environment['device']}, {environment['threads']} threads"
    foot = f"{where}, torch {environment['libraries']['torch']}, commit {environment['commit']}. {record['note']}"
    return "\n".join(
        [
            _line(HEAD),
            "|---" * len(HEAD) + "|",
            *(line for row in record["rows"] for line in rows_of(row)),
            "",
            "Times as fast as the authors' schedule. Of the matmul rate: the network's operations over the whole time, "
            "beside what the same threads reach with a matrix product in the same precision, taken in the same repeat. "
            "Means for each image unless said otherwise; rates with their 95 % intervals. The last column: what these "
            "passes would take with a ViT-B at 224.",
            "",
            _line(PROFILE_HEAD),
            "|---" * len(PROFILE_HEAD) + "|",
            *(line for row in record["rows"] for line in _profile_rows(row)),
            "",
            f"Medians of {record['repeats']} interleaved repeats, {record['clock']} time; {foot}",
            "",
            precision_note(record["fast_arithmetic"]),
            "",
        ]
    )


def rows_of(row: dict[str, Any]) -> list[str]:
    """The lines of a case in the first table."""
    lines = []
    images = f"{row['images']}, {row['triggered']} triggered" if row["triggered"] else row["images"]
    if row["undefended"]:
        cells = [row["case"], "undefended", images, "-", "-", "-", 1, 1, 0, *_rates(row["undefended"]), "-"]
        lines.append(_line(cells))
    for name, seconds in row["seconds_per_image"].items():
        found = row[name]
        cells = [
            row["case"],
            name,
            images,
            f"{statistics.median(seconds):#.3g}",
            found.get("times_authors", "-"),
            _of_matmul_rate(row, name),
            found["queries_per_image"],
            found.get("queries_median_clean", "-"),
            found["passes_per_image"],
            *_rates(found["rates"]),
            f"{found['gflop_per_image_as']['base'] / 1000:.3f}" if "gflop_per_image_as" in found else "-",
        ]
        lines.append(_line(cells))
    return lines


def precision_note(fast: str) -> str:
    """A sentence about the precision of both sides. fast: the precision that the device is fast in."""
    if fast == "bfloat16":
        return "This device is fast in bfloat16: ours computes in it, the authors' schedule in float32."
    return (
        "This device is not fast in bfloat16: both sides compute in float32, and ratios come from work left out and "
        "from losing less time between matrix products alone."
    )


def _profile_rows(row: dict[str, Any]) -> list[str]:
    profiles = {name: row[name]["profile"] for name in row["seconds_per_image"] if "profile" in row[name]}
    return [
        _line(
            [
                row["case"],
                name,
                found["precision"],
                found["filled_passes_per_image"],
                f"{found['gflop_per_image'] / 1000:.3f}",
                found["network_gflops"],
                f"{found['share_of_matmul_rate']:.0%}",
                *(f"{found['shares'].get(stage, 0):.0%}" for stage in STAGES),
            ]
        )
        for name, found in profiles.items()
    ]


def _of_matmul_rate(row: dict[str, Any], name: str) -> str:
    """The median over the repeats, or a dash if the operations or the rate are unknown."""
    known = row[name].get("profile")
    rates = row["matmul_gflops"].get(known["precision"]) if known else None
    if not rates:
        return "-"
    pairs = zip(row["seconds_per_image"][name], rates, strict=True)
    return f"{statistics.median(known['gflop_per_image'] / seconds / rate for seconds, rate in pairs):.0%}"


def _rates(rates: dict[str, Any]) -> list[str]:
    return [rates[name]["text"] if rates.get(name) else "-" for name in ("clean", "triggered", "attack")]


def _line(cells: Any) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"
