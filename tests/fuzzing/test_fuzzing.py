"""A share of ``make fuzz`` that fits into the tests, and the guard itself."""

import ctypes
import time

import pytest

from fuzzing.__main__ import PARTS, main
from fuzzing.guard import guarded
from fuzzing.pictures import corpus
from maskrestore.imaging.codec import decode_image


@pytest.mark.parametrize("part", PARTS)
def test_a_few_seconds_find_nothing(part, tmp_path, capsys):
    seconds = str(20 / len(PARTS))
    assert main(["--seconds", seconds, "--seed", "0", "--only", part, "--finds", str(tmp_path)]) == 0, (
        capsys.readouterr()
    )
    tried = int(capsys.readouterr().out.split()[1])
    assert tried >= 1


def test_the_corpus_is_sound():
    refused = 0
    for data in corpus():
        try:
            decode_image(data)
        except ValueError:
            refused += 1
    assert refused == 4  # animations, several pages, an icon


def misbehave(case: str) -> str | None:
    if case == "raise":
        raise KeyError("lost")
    if case == "crash":
        ctypes.string_at(0)
    if case == "hang":
        time.sleep(60)
    if case == "memory":
        bytearray(2**31)
    return "wrong" if case == "answer" else None


def test_the_guard_finds_every_fault_and_goes_on():
    cases = ["fine", "raise", "crash", "fine", "hang", "answer", "memory", "fine"]
    outcome = guarded(misbehave, cases, 60, longest=10)
    assert outcome.tried == len(cases)
    assert [find.case for find in outcome.finds] == ["raise", "crash", "hang", "answer", "memory"]
    raised, crashed, hung, wrong, large = (find.what for find in outcome.finds)
    assert "KeyError: 'lost'" in raised
    assert crashed == "the process died with exit code -11"
    assert hung == "no end within 10 seconds"
    assert wrong == "wrong"
    assert large.startswith("took 2.")
    assert guarded(misbehave, cases, 0).tried == 0
