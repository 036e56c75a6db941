"""Adapters in other processes: pickled, spawned, forked, in the workers of a DataLoader."""

import multiprocessing
import os
import pickle
from pathlib import Path

import pytest
import torch
from onnx_files import write_model
from torch import Tensor, nn
from torch.utils.data import DataLoader

from maskrestore.classifiers import CallableClassifier, CountingClassifier, ModuleClassifier, OnnxClassifier
from maskrestore.types import Classifier


class Means(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))


def strongest(images: Tensor) -> Tensor:
    return images.mean(dim=(2, 3)).argmax(dim=1)


KINDS = ["onnx", "module", "file", "function", "counting"]


def adapter(kind: str, folder: Path, *, asked: bool) -> Classifier:
    """An adapter that has been asked before, or not."""
    if kind == "onnx":
        made: Classifier = OnnxClassifier(write_model(folder / "a.onnx"))
    elif kind == "file":
        torch.jit.script(Means()).save(str(folder / "a.pt"))
        made = ModuleClassifier(folder / "a.pt")
    elif kind == "function":
        made = CallableClassifier(strongest)
    else:
        made = ModuleClassifier(Means())
    made = CountingClassifier(made) if kind == "counting" else made
    if asked:
        made(pictures())
    return made


def pictures() -> Tensor:
    return torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def answer(classify: Classifier) -> list[int]:
    torch.set_num_threads(1)
    return classify(pictures()).tolist()


class Answers(torch.utils.data.Dataset[int]):
    """Asks in the process that reads it."""

    def __init__(self, classify: Classifier) -> None:
        self.classify = classify

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> int:
        return int(self.classify(pictures()[index : index + 1]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("asked", [False, True])
def test_adapters_can_be_pickled(kind: str, asked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pickled = pickle.dumps(adapter(kind, Path(), asked=asked))
    monkeypatch.chdir(tmp_path.parent)  # a relative path still means the same file
    assert answer(pickle.loads(pickled)) == strongest(pictures()).tolist()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kind", KINDS)
def test_adapters_work_in_forked_processes(kind: str, tmp_path: Path) -> None:
    classify = adapter(kind, tmp_path, asked=True)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(answer, (classify,)).get(timeout=60) == strongest(pictures()).tolist()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kind", ["onnx", "module"])
def test_adapters_work_in_workers_of_a_loader(kind: str, tmp_path: Path) -> None:
    loader = DataLoader(Answers(adapter(kind, tmp_path, asked=True)), batch_size=3, num_workers=2, timeout=60)
    assert torch.cat(list(loader)).tolist() == strongest(pictures()).tolist()


def test_adapters_work_in_spawned_processes(tmp_path: Path) -> None:
    kinds = [adapter(kind, tmp_path, asked=False) for kind in ("onnx", "module")]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for classify in kinds:
            assert pool.apply_async(answer, (classify,)).get(timeout=120) == strongest(pictures()).tolist()
