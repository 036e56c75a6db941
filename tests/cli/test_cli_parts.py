import re
import time
from dataclasses import dataclass, field
from typing import Literal

import pytest

from maskrestore.cli import terminal
from maskrestore.cli.overrides import with_overrides
from maskrestore.cli.terminal import progress
from maskrestore.errors import ConfigError, UnknownNameError


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Outer:
    count: int = 1
    share: float = 0.5
    flag: bool = False
    mode: Literal["a", "b"] = "a"
    steps: tuple[float, ...] = (1.0,)
    pair: tuple[int, int] | None = None
    free: dict[str, int] | None = None
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ConfigError(f"count must be at least 0, got {self.count}")


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("count=7", "count", 7),
        ("share=1", "share", 1.0),
        ("flag=true", "flag", True),
        ("flag=No", "flag", False),
        ("mode=b", "mode", "b"),
        ("steps=0.6, 0.5", "steps", (0.6, 0.5)),
        ("pair=3,4", "pair", (3, 4)),
        ("pair=none", "pair", None),
        ('free={"x": 2}', "free", {"x": 2}),
        ("inner.rate=0.25", "inner", Inner(rate=0.25)),
    ],
)
def test_values_have_the_type_of_their_field(text, name, value):
    changed = getattr(with_overrides(Outer(), [text]), name)
    assert changed == value
    assert type(changed) is type(value)


def test_later_texts_win_and_nothing_else_changes():
    start = Outer(share=0.1)
    assert with_overrides(start, ["count=2", "count=3"]) == Outer(count=3, share=0.1)
    assert with_overrides(start, []) is start


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("count", "expected NAME=VALUE, got 'count'"),
        ("count=2.5", "count=2.5: expected a value of type int"),
        ("count=-1", "count must be at least 0"),
        ("flag=perhaps", "expected one of true, yes, 1, false, no, 0"),
        ("mode=c", "expected one of a, b, got 'c'"),
        ("pair=1,2,3", "expected 2 values"),
        ("steps=", "expected a value of type float, got ''"),
        ("free=x", "expected a JSON object"),
        ("inner=1", r"expected NAME.FIELD=VALUE"),
        ("count.x=1", r"expected count=VALUE"),
    ],
)
def test_what_does_not_fit_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        with_overrides(Outer(), [text])


def test_unknown_fields_list_the_known_ones():
    with pytest.raises(UnknownNameError, match="known: count, flag, free"):
        with_overrides(Outer(), ["colour=red"])
    with pytest.raises(UnknownNameError, match="known: rate"):
        with_overrides(Outer(), ["inner.colour=red"])


def test_progress_without_a_terminal_is_a_line_now_and_then(monkeypatch, capsys):
    now = 0.0
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now)
    with progress("work") as update:
        for done in range(1, 101):
            now += 1.0
            update(done, 100, f"step {done}")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[0] == "work: 10/100 step 10"
    assert lines[-1] == "work: 100/100 step 100"


def test_progress_without_a_terminal_gives_signs_of_life(monkeypatch, capsys):
    monkeypatch.setattr(terminal, "_SIGN_OF_LIFE", 0.05)
    with progress("work") as update:
        update(3, 100, "25 queries")
        time.sleep(0.5)
        update(4, 100, "26 queries")
        update(5, 100)
    lines = capsys.readouterr().err.splitlines()
    assert 3 <= len(lines) <= 11
    assert all(re.fullmatch(r"work: 3/100 25 queries \(\d s\)", line) for line in lines)


@pytest.mark.parametrize("device", ["abacus", "meta"])
@pytest.mark.parametrize("command", ["purify", "train-victim"])
def test_a_device_that_is_not_here_is_said_to_be_so(command, device, invoke, tmp_path):
    arguments = {"purify": [tmp_path, "--classifier", "a:b", "--out", tmp_path], "train-victim": []}[command]
    result = invoke(command, *arguments, "--device", device)
    assert result.exit_code == 2
    assert f"--device {device} cannot be used here; `cpu` always can" in " ".join(result.stderr.split())
