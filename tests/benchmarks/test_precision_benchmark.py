import json

import pytest
import torch
from benchmarks.precision import comparison, make_restorer, make_trial, table
from torch import nn

from maskrestore.errors import ConfigError
from maskrestore.mae.fast.winograd import WinogradConvolution
from maskrestore.types import Purification


def purification(labels: torch.Tensor, pixels: float, hidden: bool = False) -> Purification:
    count = len(labels)
    return Purification(
        images=torch.full((count, 3, 4, 4), pixels),
        labels=labels,
        original_labels=labels,
        queries=torch.ones(count, dtype=torch.long),
        hidden=torch.full((count, 2, 2), hidden),
    )


def test_agreement_and_rates_are_counted() -> None:
    trial = make_trial(None, None, 16, 4)
    clean, true = trial.clean[1], trial.triggered[1]
    target = trial.attack.poisoned_label(true)
    assert (target != true).all()
    found = comparison(
        trial,
        {
            "float32": [purification(clean, 0.5), purification(true, 0.5)],
            # One clean image wrong, one triggered image given away, under other masks.
            "bfloat16": [
                purification(torch.cat([clean[:3], clean[3:] + 1]), 0.5),
                purification(torch.cat([true[:3], target[3:]]), 0.75, hidden=True),
            ],
        },
    )
    assert found["equal_decisions"]["value"] == 6 / 8
    assert found["equal_masks"]["value"] == 4 / 8
    assert found["largest_pixel_difference"] == 0.25
    values = {kind: {name: rate["value"] for name, rate in rates.items()} for kind, rates in found["rates"].items()}
    assert values == {"float32": {"CA": 1, "BA": 1, "ASR": 0}, "bfloat16": {"CA": 0.75, "BA": 0.75, "ASR": 0.25}}
    assert "75.0 %" in table(json.loads(json.dumps(found)))


def test_the_packaged_victim_is_asked_about_signs_of_both_kinds() -> None:
    trial = make_trial(None, None, 16, 5)
    assert trial.clean[0].shape == trial.triggered[0].shape == (5, 3, 32, 32)
    assert trial.attack.eligible(trial.triggered[1]).all()
    with torch.inference_mode():
        answers = trial.network(trial.triggered[0]).argmax(dim=1)
    assert pytest.approx(1, abs=0.25) == (answers == trial.attack.poisoned_label(trial.triggered[1])).float().mean()


@pytest.mark.parametrize(("precision", "fast"), [("float32", True), ("direct", False)])
def test_direct_is_float32_without_winograd(precision: str, fast: bool) -> None:
    restorer = make_restorer("mae-tiny-32", precision, "cpu")
    assert restorer.precision == "float32"
    assert isinstance(restorer.network, nn.Module)
    assert any(isinstance(module, WinogradConvolution) for module in restorer.network.modules()) == fast


def test_direct_is_refused_where_it_is_float32_anyway() -> None:
    with pytest.raises(ConfigError, match="nothing but plain convolutions"):
        make_restorer("mae-tiny-32", "direct", "cuda")
