from __future__ import annotations

import contextlib

import pytest
import torch

from maskrestore.errors import UnknownNameError
from maskrestore.runtime.precision import fast_arithmetic, resolve_precision


@pytest.mark.parametrize(("able", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_a_processor_computes_in_what_it_has_instructions_for(
    monkeypatch: pytest.MonkeyPatch, able: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: able)
    assert resolve_precision("auto", "cpu") == fast_arithmetic("cpu") == expected
    assert resolve_precision("bfloat16", "cpu") == "bfloat16"
    assert resolve_precision("float32", "cpu") == "float32"


def test_a_gpu_is_asked_itself_and_emulation_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    current = []

    @contextlib.contextmanager
    def device(place: torch.device):  # type: ignore[no-untyped-def]
        current.append(place.index)
        yield
        current.pop()

    def supported(including_emulation: bool = True) -> bool:
        return including_emulation or current == [1]

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert fast_arithmetic("cuda:1") == "bfloat16"
    assert fast_arithmetic("cuda:0") == "float32"


def test_what_is_not_known_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device in ("mps", "xpu", "cuda", "cuda:1"):
        assert fast_arithmetic(device) == "float32"
    with pytest.raises(UnknownNameError, match="precision"):
        resolve_precision("float16")  # type: ignore[arg-type]
