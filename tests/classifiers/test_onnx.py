import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from onnx_files import write_model
from torch import Tensor

from maskrestore.classifiers import OnnxClassifier
from maskrestore.errors import (
    ClassifierError,
    ClassifierOutputError,
    ConfigError,
    InvalidImageError,
    MissingDependencyError,
)
from maskrestore.imaging.resize import resize


def pictures(count: int, height: int = 8, width: int = 8) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(count))


def strongest(images: Tensor) -> list[int]:
    return images.mean(dim=(2, 3)).argmax(dim=1).tolist()


@pytest.mark.parametrize("batch", ["N", 1, 4])
@pytest.mark.parametrize("labels", [False, True])
def test_logits_or_labels_with_any_batch_axis(batch: int | str, labels: bool, tmp_path: Path) -> None:
    classify = OnnxClassifier(write_model(tmp_path / "a.onnx", shape=(batch, 3, 8, 8), labels=labels), micro_batch=3)
    assert classify.micro_batch == (3 if batch == "N" else batch)
    images = pictures(7)
    assert classify(images).tolist() == strongest(images)
    assert classify(images).dtype == torch.int64


def test_micro_batches_unless_told_otherwise(tmp_path: Path) -> None:
    free = write_model(tmp_path / "free.onnx", shape=("N", 3, 8, 8))
    assert OnnxClassifier(free).micro_batch == 8
    assert OnnxClassifier(write_model(tmp_path / "fixed.onnx", shape=(4, 3, 8, 8))).micro_batch == 4


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE])
@pytest.mark.parametrize("shape", [("N", 3, "H", "W"), ("N", "H", "W", 3), ("N", 8, 8, 3)])
def test_channels_first_or_last_in_every_float(dtype: int, shape: tuple[int | str, ...], tmp_path: Path) -> None:
    classify = OnnxClassifier(write_model(tmp_path / "a.onnx", shape=shape, dtype=dtype))
    assert classify.layout == ("hwc" if shape[-1] == 3 else "chw")
    assert classify.channels == 3
    images = torch.zeros(5, 3, 8, 8)
    for row, strong in enumerate([2, 0, 1, 1, 0]):
        images[row, strong] = 0.5
    assert classify(images).tolist() == [2, 0, 1, 1, 0]


def test_normalisation_per_channel(tmp_path: Path) -> None:
    path = write_model(tmp_path / "a.onnx")
    images = torch.tensor([0.5, 0.4, 0.3]).reshape(1, 3, 1, 1).expand(2, 3, 8, 8)
    assert OnnxClassifier(path)(images).tolist() == [0, 0]
    assert OnnxClassifier(path, mean=(0.5, 0.5, 0.5), std=(1, 1, 1))(images).tolist() == [0, 0]
    assert OnnxClassifier(path, mean=(0.5, 0.3, 0.3))(images).tolist() == [1, 1]
    assert OnnxClassifier(path, std=(1, 1, 0.1))(images).tolist() == [2, 2]


def test_images_are_resized_to_what_the_model_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, int]] = []

    def spy(images: Tensor, height: int, width: int) -> Tensor:
        sizes.append((height, width))
        return resize(images, height, width)

    monkeypatch.setattr("maskrestore.classifiers.onnx.resize", spy)
    images = pictures(3, 20, 30)
    fixed = OnnxClassifier(write_model(tmp_path / "fixed.onnx", shape=("N", 3, 16, 12)))
    assert fixed.input_size == (16, 12)
    assert fixed(images).tolist() == strongest(resize(images, 16, 12))
    free = write_model(tmp_path / "free.onnx")
    assert OnnxClassifier(free, input_size=10)(images).tolist() == strongest(resize(images, 10, 10))
    assert set(sizes) == {(16, 12), (10, 10)}
    sizes.clear()
    assert OnnxClassifier(free).input_size is None
    assert OnnxClassifier(free)(images).tolist() == strongest(images)
    assert not sizes


def test_a_size_that_is_half_free_must_be_named(tmp_path: Path) -> None:
    path = write_model(tmp_path / "a.onnx", shape=("N", 3, 16, "W"))
    with pytest.raises(ConfigError, match=r"height or width is free; say both with .* \(--input-size 16xW\)"):
        OnnxClassifier(path)
    images = pictures(4)
    assert OnnxClassifier(path, input_size=(16, 8))(images).tolist() == strongest(images)


def test_the_output_can_be_chosen(tmp_path: Path) -> None:
    path = write_model(tmp_path / "a.onnx", labels=True)
    images = pictures(4)
    for output in ("logits", "1"):
        assert OnnxClassifier(path, output=output)(images).tolist() == strongest(images)
    with pytest.raises(ConfigError, match=r"no output '2'"):
        OnnxClassifier(path, output="2")
    with pytest.raises(ConfigError, match=r"no output 'scores'; it has: label: .*; logits: "):
        OnnxClassifier(path, output="scores")


def _with_outputs(path: Path, outputs: dict[str, tuple[int, list[int | str]]]) -> Path:
    """A model whose outputs have these types and shapes; ``logits`` are the channel means, ``indices`` the best two."""
    nodes = [onnx.helper.make_node("ReduceMean", ["image"], ["means"], axes=[2, 3], keepdims=0)]
    made = {
        "logits": onnx.helper.make_node("Identity", ["means"], ["logits"]),
        "embedding": onnx.helper.make_node("MatMul", ["means", "weights"], ["embedding"]),
        "label": onnx.helper.make_node("ArgMax", ["means"], ["label"], axis=1, keepdims=0),
        "scores": onnx.helper.make_node("TopK", ["means", "k"], ["scores", "indices"], axis=1),
    }
    nodes += [made[name] for name in outputs if name in made]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "outputs",
        [value("image", TensorProto.FLOAT, ["N", 3, "H", "W"])],
        [value(name, kind, shape) for name, (kind, shape) in outputs.items()],
        [
            onnx.numpy_helper.from_array(np.ones((3, 8), np.float32), "weights"),
            onnx.numpy_helper.from_array(np.array([2], np.int64), "k"),
        ],
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8), path)
    return path


LOGITS = (TensorProto.FLOAT, ["N", 3])


def test_an_answer_that_is_ambiguous_must_be_named(tmp_path: Path) -> None:
    path = _with_outputs(tmp_path / "a.onnx", {"embedding": (TensorProto.FLOAT, ["N", 8]), "logits": LOGITS})
    with pytest.raises(ConfigError, match=r"2 outputs.*embedding: tensor\(float\).*logits.*--output NAME"):
        OnnxClassifier(path)
    images = pictures(4)
    assert OnnxClassifier(path, output="logits")(images).tolist() == strongest(images)


@pytest.mark.parametrize("other", ["embedding", "label"])
def test_labels_are_taken_where_only_one_output_can_hold_them(other: str, tmp_path: Path) -> None:
    outputs = {"embedding": (TensorProto.FLOAT, ["N", 8]), "label": (TensorProto.INT64, ["N"]), "logits": LOGITS}
    path = _with_outputs(tmp_path / "a.onnx", dict(sorted(outputs.items(), key=lambda item: item[0] != other)))
    classify, images = OnnxClassifier(path), pictures(4)
    assert classify.output == "label"
    assert classify(images).tolist() == strongest(images)


def test_indices_of_the_best_classes_are_no_scores(tmp_path: Path) -> None:
    path = _with_outputs(
        tmp_path / "a.onnx", {"indices": (TensorProto.INT64, ["N", 2]), "scores": (TensorProto.FLOAT, ["N", 2])}
    )
    with pytest.raises(ConfigError, match=r"indices: tensor\(int64\) of shape"):
        OnnxClassifier(path)
    with pytest.raises(ClassifierOutputError, match=r"got torch\.int64 of shape \(8, 2\); integers in rows"):
        OnnxClassifier(path, output="indices")(pictures(2))


def test_grey_images_are_refused_by_a_colour_model(tmp_path: Path) -> None:
    with pytest.raises(InvalidImageError, match=r"a\.onnx takes 3 channels, got images with 1"):
        OnnxClassifier(write_model(tmp_path / "a.onnx"))(torch.rand(2, 1, 8, 8))


def test_files_that_are_no_classifier(tmp_path: Path) -> None:
    with pytest.raises(ClassifierError, match=r"gone\.onnx: expected an ONNX file, found none"):
        OnnxClassifier(tmp_path / "gone.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(ClassifierError, match=r"text\.onnx: not a usable ONNX model"):
        OnnxClassifier(tmp_path / "text.onnx")
    whole = write_model(tmp_path / "whole.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ClassifierError, match=r"cut\.onnx: not a usable"):
        OnnxClassifier(tmp_path / "cut.onnx")
    with pytest.raises(ClassifierError, match=r"it has 2: image0: tensor\(float\) of shape .*package\.module:function"):
        OnnxClassifier(write_model(tmp_path / "two.onnx", inputs=2))
    with pytest.raises(ConfigError, match=r"takes tensor\(int64\), whole numbers; .*--pixel-range 0\.\.255"):
        OnnxClassifier(write_model(tmp_path / "tokens.onnx", dtype=TensorProto.INT64))


@pytest.mark.parametrize("place", ["input", "output", "metadata"])
def test_names_that_are_no_text_are_refused(place: str, tmp_path: Path) -> None:
    path = write_model(tmp_path / "a.onnx", shape=("N", 3, 8, 8))
    model = onnx.load(path)
    name = model.graph.input[0].name if place == "input" else model.graph.output[0].name
    if place == "metadata":
        name = "a_key_of_the_file"
        entry = model.metadata_props.add()
        entry.key, entry.value = name, "x"
    wrong = b"\xb5" * len(name)
    path.write_bytes(model.SerializeToString().replace(name.encode(), wrong))
    with pytest.raises(ClassifierError, match="not a usable ONNX model"):
        OnnxClassifier(path)


def test_a_model_that_fails_while_running_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classify = OnnxClassifier(write_model(tmp_path / "a.onnx"))

    class Broken:
        def run(self, outputs: list[str], feed: dict[str, object]) -> list[object]:
            raise RuntimeError("shape mismatch")

    monkeypatch.setattr(classify, "_session", Broken())
    with pytest.raises(ClassifierError, match=r"a\.onnx: the model failed: shape mismatch"):
        classify(pictures(1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"micro_batch": 0}, "micro_batch must be at least 1, got 0"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"std": 0}, "positive"),
        ({"input_size": 16}, r"\(16, 16\) does not fit the model, which takes \(8, 8\) only"),
        ({"input_size": 0}, "at least 1 and at most 8192, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        OnnxClassifier(write_model(tmp_path / "a.onnx", shape=("N", 3, 8, 8)), **settings)  # type: ignore[arg-type]


def test_without_onnxruntime_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'maskrestore\[onnx\]'"):
        OnnxClassifier(tmp_path / "a.onnx")
