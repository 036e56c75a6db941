"""Pictures of the stages of a purification, as reports show them."""

from __future__ import annotations

import numpy as np

from maskrestore.gateway.decisions import KeptDecision
from maskrestore.gateway.records import Stage
from maskrestore.reporting.columns import columns_for
from maskrestore.reporting.entries import Evidence, ReportEntry
from maskrestore.reporting.pictures import data_uri

__all__ = ["evidence_of", "stages_of"]

_OF_PICTURES = ("Input", "Purified", "Removed")


def evidence_of(kept: KeptDecision) -> Evidence:
    """What is left of a decision. Without its pictures, they are grey; the change is that of the kept pictures."""
    one = kept.decision
    grey = np.full((max(1, min(one.height, 224)), max(1, min(one.width, 224)), 3), 128, np.uint8)
    before, after = kept.pictures.get("before", grey), kept.pictures.get("after", grey)
    maps = {name: values.astype(bool if name == "hidden" else np.float32) for name, values in kept.maps.items()}
    change = float(np.abs(after.astype(np.float32) - before.astype(np.float32)).max()) / 255
    return Evidence(original=before, purified=after, size=(one.height, one.width), largest_change=change, **maps)


def stages_of(evidence: Evidence, *, pictured: bool = True) -> list[Stage]:
    """The stages that there are. pictured: False leaves those out that are the picture itself."""
    columns = columns_for([ReportEntry(name="picture", original_label=None, label=0, evidence=evidence)])
    found = []
    for column in columns:
        drawn = column.draw(evidence)
        if drawn is not None and (pictured or column.symbol not in _OF_PICTURES):
            picture, caption = drawn
            found.append(Stage(title=column.title, meaning=column.meaning, caption=caption, picture=data_uri(picture)))
    return found
