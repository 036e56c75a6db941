"""The shell scripts of ``benchmarks/`` run for hours; here the settings in them are read."""

import shlex
from itertools import pairwise
from pathlib import Path

import pytest

from maskrestore.cli.overrides import with_overrides
from maskrestore.lab.measure.defenses import default_config

SCRIPT = Path(__file__).parents[2] / "benchmarks/accuracy.sh"
PARTS = [line.strip() for line in SCRIPT.read_text().splitlines() if line.strip().startswith("part --")]


def values_of(option: str, words: list[str]) -> list[str]:
    return [value for name, value in pairwise(words) if name == option]


@pytest.mark.parametrize("line", PARTS)
def test_settings_of_parts_exist_and_change_something(line: str) -> None:
    words = shlex.split(line, comments=True)
    settings = values_of("--set", words)
    for name in values_of("--defense", words):
        changed = with_overrides(default_config(name), settings)
        assert (changed == default_config(name)) == (not settings)
