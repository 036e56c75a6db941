import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maskrestore.errors import ConfigError
from maskrestore.lab.measure.metrics import accuracy, measure
from maskrestore.statistics import Rate


def test_wilson_interval_has_published_values():
    # Newcombe (1998), Statistics in Medicine 17, table I, method 3.
    for successes, trials, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        rate = Rate(successes, trials)
        assert rate.low == pytest.approx(low, abs=5e-5)
        assert rate.high == pytest.approx(high, abs=5e-5)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_interval_contains_the_value_and_stays_in_range(counts):
    rate = Rate(*counts)
    mirrored = Rate(rate.trials - rate.successes, rate.trials)
    assert 0 <= rate.low <= rate.value <= rate.high <= 1
    assert math.isclose(rate.low, 1 - mirrored.high, abs_tol=1e-12)


@pytest.mark.parametrize("counts", [(-1, 5), (6, 5), (0, 0)])
def test_impossible_counts_are_refused(counts):
    with pytest.raises(ConfigError, match="successes <= trials"):
        Rate(*counts)


def test_rate_reads_as_percent():
    assert str(Rate(1, 4)) == "25.0 % [4.6, 69.9]"


def test_metrics_count_the_right_images():
    clean = (torch.tensor([0, 1, 2, 2]), torch.tensor([0, 1, 2, 3]))
    triggered = (torch.tensor([0, 0, 2]), torch.tensor([1, 2, 2]), torch.tensor([0, 0, 0]))
    metrics = measure(clean, triggered)
    assert metrics.ca == Rate(3, 4)
    assert metrics.ba == Rate(1, 3)
    assert metrics.asr == Rate(2, 3)
    assert measure(clean).asr is None


def test_labels_of_different_length_are_refused():
    with pytest.raises(ConfigError, match=r"\(2,\) and \(3,\)"):
        accuracy(torch.zeros(2), torch.zeros(3))
