"""ONNX graphs built by hand after what exporters write. Every right label is the channel with the largest mean."""

import functools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from maskrestore.classifiers import OnnxClassifier
from maskrestore.classifiers.onnx_outputs import answer_names
from maskrestore.errors import ClassifierError, ClassifierOutputError, ConfigError
from onnx_graphs import maps, means, save, value

FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING
NAMES = ["red", "green", "blue"]
node = helper.make_node
F, L = "tensor(float)", "tensor(int64)"


def pictures(count: int = 5, channels: int = 3) -> Tensor:
    """Each has one channel that is brighter than the others: 0, 1, 2, 0, 1."""
    images = 0.1 + 0.2 * torch.rand(count, channels, 8, 8, generator=torch.Generator().manual_seed(0))
    for row in range(count):
        images[row, row % channels] += 0.4
    return images


EXPECTED = [0, 1, 2, 0, 1]


def table(name: str, numbers: object, dtype: object = np.float32) -> TensorProto:
    return numpy_helper.from_array(np.array(numbers, dtype), name)


def scikit_learn(path: Path, *, names: list[str] | None, zipmap: bool) -> Path:
    """A pipeline on rows of 8 x 8 x 3 numbers, pixel after pixel: labels, and probabilities as maps or rows."""
    classes = {"classlabels_strings": names} if names else {"classlabels_int64s": [0, 1, 2]}
    nodes = [
        node("Reshape", ["X", "shape"], ["x"]),
        means("x", "p", axes=(1,)),
        node("ArgMax", ["p"], ["i"], axis=1, keepdims=0),
    ]
    kind = STRING if names else INT64
    constants = [table("shape", [0, 64, 3], np.int64)]
    if names:
        constants.append(helper.make_tensor("classes", STRING, [3], [name.encode() for name in names]))
        nodes += [
            node("ArrayFeatureExtractor", ["classes", "i"], ["picked"], domain="ai.onnx.ml"),
            node("Reshape", ["picked", "row"], ["label"]),
        ]
        constants.append(table("row", [-1], np.int64))
    else:
        nodes.append(node("Identity", ["i"], ["label"]))
    nodes.append(
        node("ZipMap", ["p"], ["probabilities"], domain="ai.onnx.ml", **classes)
        if zipmap
        else node("Identity", ["p"], ["probabilities"])
    )
    probabilities = (
        maps("probabilities", STRING if names else INT64) if zipmap else value("probabilities", FLOAT, ["N", 3])
    )
    outputs = [value("label", kind, ["N"]), probabilities]
    return save(path, nodes, [value("X", FLOAT, ["N", 192])], outputs, constants)


@pytest.mark.parametrize("zipmap", [True, False])
@pytest.mark.parametrize("names", [None, NAMES])
@pytest.mark.parametrize("output", [None, "probabilities"])
def test_scikit_learn(names: list[str] | None, zipmap: bool, output: str | None, tmp_path: Path) -> None:
    path = scikit_learn(tmp_path / "a.onnx", names=names, zipmap=zipmap)
    with pytest.raises(ConfigError, match=r"picture as a row of numbers.*--input-size 8x8"):
        OnnxClassifier(path)
    with pytest.raises(ConfigError, match=r"channel after channel or pixel after pixel.*--layout flat"):
        OnnxClassifier(path, input_size=8)
    classify = OnnxClassifier(path, input_size=8, layout="flat-hwc", output=output)
    assert classify(pictures()).tolist() == EXPECTED
    assert classify.output == (output or "label")
    assert classify.classes == (tuple(names) if names and (zipmap or output is None) else None)


def test_grey_rows_need_a_size_only(tmp_path: Path) -> None:
    path = save(
        tmp_path / "digits.onnx",
        [node("MatMul", ["X", "w"], ["y"])],
        [value("X", FLOAT, [None, 64])],
        [value("y", FLOAT, [None, 2])],
        [table("w", [[1.0, 0.0]] * 32 + [[0.0, 1.0]] * 32)],
    )
    images = torch.zeros(2, 1, 8, 8)
    images[0, :, :4] = 1
    images[1, :, 4:] = 1
    assert OnnxClassifier(path, input_size=(8, 8))(images).tolist() == [0, 1]


def test_keras(tmp_path: Path) -> None:
    path = save(
        tmp_path / "a.onnx",
        [means("input_1", "dense", axes=(1, 2))],
        [value("input_1", FLOAT, ["unk__1", 8, 8, 3])],
        [value("dense", FLOAT, ["unk__1", 3])],
    )
    classify = OnnxClassifier(path, pixel_range=(-1, 1))
    assert (classify.layout, classify.input_size) == ("hwc", (8, 8))
    assert classify(pictures()).tolist() == EXPECTED


@pytest.mark.parametrize("metadata", [True, False])
def test_azure_custom_vision(metadata: bool, tmp_path: Path) -> None:
    """Blue first, 0 to 255; names and maps. The graph answers "red" only where values exceed 50."""
    nodes = [
        means("data", "bgr"),
        node("Gather", ["bgr", "turned"], ["p"], axis=1),
        node("Sub", ["p", "fifty"], ["bright"]),
        node("ArgMax", ["bright"], ["i"], axis=1, keepdims=1),
        node("LabelEncoder", ["i"], ["classLabel"], domain="ai.onnx.ml", keys_int64s=[0, 1, 2], values_strings=NAMES),
        node("ZipMap", ["bright"], ["loss"], domain="ai.onnx.ml", classlabels_strings=NAMES),
    ]
    path = save(
        tmp_path / "a.onnx",
        nodes,
        [value("data", FLOAT, [None, 3, 8, 8])],
        [value("classLabel", STRING, [None, 1]), maps("loss")],
        [table("turned", [2, 1, 0], np.int64), table("fifty", [200.0, 0.0, 0.0])],
        metadata={"Image.BitmapPixelFormat": "Bgr8", "Image.NominalPixelRange": "NominalRange_0_255"}
        if metadata
        else {},
    )
    images = pictures() + 0.3  # red is above 200 / 255 of the way
    settings = {} if metadata else {"channel_order": "bgr", "pixel_range": (0, 255)}
    classify = OnnxClassifier(path, **settings)  # type: ignore[arg-type]
    assert classify.classes == ("red", "green", "blue")
    assert bool(classify.notes) == metadata
    channel = images.mean(dim=(2, 3)) * 255 - torch.tensor([200.0, 0, 0])
    assert classify(images).tolist() == channel.argmax(dim=1).tolist()
    assert OnnxClassifier(path, **settings, output="loss")(images).tolist() == classify(images).tolist()  # type: ignore[arg-type]
    if metadata:
        assert OnnxClassifier(path, channel_order="rgb").normalise.channel_order == "rgb"


def ml_net(path: Path, kind: int) -> Path:
    """``PredictedLabel`` in a column, ``Score`` in rows."""
    nodes = [
        means("Image", "Score"),
        node("ArgMax", ["Score"], ["i"], axis=1, keepdims=1),
        node("Cast", ["i"], ["PredictedLabel"], to=kind),
    ]
    outputs = [value("PredictedLabel", kind, [-1, 1]), value("Score", FLOAT, [-1, 3])]
    return save(path, nodes, [value("Image", FLOAT, [-1, 3, 8, 8])], outputs)


@pytest.mark.parametrize("kind", [TensorProto.UINT32, INT64])
def test_ml_net(kind: int, tmp_path: Path) -> None:
    classify = OnnxClassifier(ml_net(tmp_path / "a.onnx", kind))
    assert classify.output == "PredictedLabel"
    assert classify(pictures()).tolist() == EXPECTED


@pytest.mark.parametrize("shape", [["b", 3], ["b", 3, 1, 1], ["b", 1, 1, 3], ["b", "k", "h", "w"], [1, 3], None])
@pytest.mark.parametrize("names", [["batch_size", "num_channels", "height", "width"], ["b", 3, "h", "w"], [1, 3, 8, 8]])
def test_pytorch(shape: list[int | str] | None, names: list[int | str], tmp_path: Path) -> None:
    """Old and new exporter: every axis free, some or none; scores with further axes."""
    final = [0, 1, 1, 3] if shape == ["b", 1, 1, 3] else [0, 3, 1, 1] if shape and len(shape) == 4 else [0, 3]
    path = save(
        tmp_path / "a.onnx",
        [means("x", "m"), node("Reshape", ["m", "shape"], ["y"])],
        [value("x", FLOAT, names)],
        [value("y", FLOAT, shape)],
        [table("shape", final, np.int64)],
    )
    classify = OnnxClassifier(path)
    assert classify(pictures()).tolist() == EXPECTED
    assert classify.layout == "chw"


def test_free_axes_are_settled_by_what_the_model_works_with(tmp_path: Path) -> None:
    free = value("x", FLOAT, ["a", "b", "c", "d"])
    weights = table("w", np.eye(3))
    path = save(
        tmp_path / "last.onnx",
        [means("x", "m", axes=(1, 2)), node("MatMul", ["m", "w"], ["y"])],
        [free],
        [value("y", FLOAT, ["a", 3])],
        [weights],
    )
    classify = OnnxClassifier(path)
    assert classify.layout is None
    assert classify(pictures()).tolist() == EXPECTED
    assert classify.layout == "hwc"
    both = save(tmp_path / "both.onnx", [means("x", "y")], [free], [value("y", FLOAT, ["a", "k"])])
    with pytest.raises(ConfigError, match="works with channels first and last; say which with layout=chw"):
        OnnxClassifier(both)(pictures())
    assert OnnxClassifier(both, layout="chw")(pictures()).tolist() == EXPECTED


@pytest.mark.parametrize(
    ("kind", "bounds"),
    [
        (TensorProto.UINT8, None),
        (TensorProto.INT8, (-128, 127)),
        (TensorProto.INT32, (0, 255)),
        (TensorProto.INT64, (0, 1000)),
        (TensorProto.UINT16, (0, 65535)),
        (TensorProto.FLOAT16, None),
        (TensorProto.DOUBLE, (0, 255)),
        (TensorProto.BFLOAT16, None),
    ],
)
def test_every_type_of_number(kind: int, bounds: tuple[float, float] | None, tmp_path: Path) -> None:
    path = save(
        tmp_path / "a.onnx",
        [node("Cast", ["x"], ["f"], to=FLOAT), means("f", "y")],
        [value("x", kind, ["b", 3, "h", "w"])],
        [value("y", FLOAT, ["b", 3])],
    )
    assert OnnxClassifier(path, pixel_range=bounds)(pictures()).tolist() == EXPECTED


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (TensorProto.INT32, {}, r"int32\), whole numbers; say which ones black and white are.*--pixel-range 0..255"),
        (TensorProto.INT8, {"pixel_range": (0, 255)}, r"from -128 to 127; the pixel range 0..255 does not fit"),
        (TensorProto.UINT8, {"mean": 0.5}, "pixels as they are; leave mean and std out"),
        (FLOAT, {"pixel_range": (-1, 1), "mean": 0.5}, "give mean and std, or the range"),
        (FLOAT, {"pixel_range": (1, 0)}, "the lower one first"),
        (FLOAT, {"layout": "hwc"}, "1 or 3 channels in axis 3"),
        (FLOAT, {"layout": "flat"}, "which is not flat"),
        (FLOAT, {"layout": "wide"}, "layout must be one of chw, hwc, flat, flat-hwc"),
        (FLOAT, {"channel_order": "gbr"}, "channel_order must be one of rgb, bgr"),
    ],
)  # fmt: skip
def test_ranges_and_layouts_that_do_not_fit(
    kind: int, settings: dict[str, object], message: str, tmp_path: Path
) -> None:
    path = save(
        tmp_path / "a.onnx",
        [node("Cast", ["x"], ["f"], to=FLOAT), means("f", "y")],
        [value("x", kind, ["b", 3, 8, 8])],
        [value("y", FLOAT, ["b", 3])],
    )
    with pytest.raises((ConfigError, ClassifierError), match=message):
        OnnxClassifier(path, **settings)  # type: ignore[arg-type]


def test_whole_numbers_are_rounded(tmp_path: Path) -> None:
    path = save(
        tmp_path / "a.onnx",
        [node("Cast", ["x"], ["f"], to=FLOAT), means("f", "m"), node("Equal", ["m", "wanted"], ["same"]),
         node("Cast", ["same"], ["y"], to=FLOAT)],
        [value("x", TensorProto.UINT8, ["b", 3, "h", "w"])],
        [value("y", FLOAT, ["b", 3])],
        [table("wanted", [127.0, 128.0, 255.0])],
    )  # fmt: skip
    levels = torch.tensor([[0.0, 128 / 255, 0.0], [0.499, 0, 0], [0, 0, 0.999]])
    images = levels[:, :, None, None].expand(-1, -1, 4, 4)
    assert OnnxClassifier(path)(images).tolist() == [1, 0, 2]


def test_one_column(tmp_path: Path) -> None:
    for shape in (["b", 1], ["b"]):
        nodes = [means("x", "m"), node("MatMul", ["m", "w"], ["s"]), node("Sigmoid", ["s"], ["p"])]
        nodes.append(node("Reshape", ["p", "shape"], ["y"]))
        path = save(
            tmp_path / "a.onnx",
            nodes,
            [value("x", FLOAT, ["b", 3, "h", "w"])],
            [value("y", FLOAT, shape)],
            [table("w", [[9.0], [-9.0], [0.0]]), table("shape", [-1, 1][: len(shape)], np.int64)],
        )
        with pytest.raises(ConfigError, match=r"one score for each image, a probability or a logit; .*--threshold"):
            OnnxClassifier(path)
        assert OnnxClassifier(path, threshold=0.5)(pictures(2)).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("axes", "grey"), [(["b", 8, 8], True), ([1, 8, 8], True), ([3, 8, 8], False), ([8, 8, 3], False)]
)  # fmt: skip
def test_three_axes(axes: list[int | str], grey: bool, tmp_path: Path) -> None:
    """Grey pictures without channels, or one colour picture without a batch."""
    if grey:
        nodes = [means("x", "m", axes=(1,)), node("MatMul", ["m", "w"], ["y"])]
        constants = [table("w", [[1.0, 0.0]] * 4 + [[0.0, 1.0]] * 4)]
        images = torch.zeros(2, 1, 8, 8)
        images[0, :, :, :4] = images[1, :, :, 4:] = 1
        expected, out = [0, 1], ["b", 2]
    else:
        nodes, constants = [means("x", "y", axes=(1, 2) if axes[0] == 3 else (0, 1))], []
        images, expected, out = pictures(), EXPECTED, [3]
    path = save(tmp_path / "a.onnx", nodes, [value("x", FLOAT, axes)], [value("y", FLOAT, out)], constants)
    assert OnnxClassifier(path)(images).tolist() == expected


def test_baked_in_batches(tmp_path: Path) -> None:
    build = functools.partial(
        save, inputs=[value("x", FLOAT, ["b", 3, "h", "w"])], outputs=[value("y", FLOAT, None)]
    )  # fmt: skip
    for shape in ([1, 3], [1, -1], [3]):
        path = build(
            tmp_path / "a.onnx",
            [means("x", "m"), node("Reshape", ["m", "shape"], ["y"])],
            constants=[table("shape", shape, np.int64)],
        )
        classify = OnnxClassifier(path)
        with pytest.warns(UserWarning, match="fails with 8 images at a time and works with one"):
            assert classify(pictures()).tolist() == EXPECTED
        assert classify.micro_batch == 1
        assert classify(pictures()).tolist() == EXPECTED
        with pytest.raises(ClassifierError, match="it works with one image at a time: micro_batch=1"):
            OnnxClassifier(path, micro_batch=4)(pictures())


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"boxes": (F, ["n", 4]), "labels": (L, ["n"]), "scores": (F, ["n"])}, "not clear which one"),
        ({"num": (L, ["b"]), "boxes": (F, ["b", 100, 4]), "scores": (F, ["b", 100])}, "not clear which one"),
        ({"logits": (F, ["b", 3]), "aux": (F, ["b", 3])}, "not clear which one"),
        ({"masks": (F, ["b", 21, 8, 8])}, "as segmentation models and detectors answer"),
        ({"found": (F, ["b", 84, 8400])}, "as segmentation models and detectors answer"),
        ({"half": ("tensor(bfloat16)", ["b", 3])}, "is tensor.bfloat16.; export it as float"),
    ],
)
def test_what_is_no_classifier(outputs: dict[str, tuple[str, list[int | str]]], message: str) -> None:
    entries = [SimpleNamespace(name=name, type=kind, shape=shape) for name, (kind, shape) in outputs.items()]
    with pytest.raises((ConfigError, ClassifierError), match=message):
        answer_names(SimpleNamespace(get_outputs=lambda: entries), None, Path("a.onnx"))


def test_segmentation_with_free_axes_is_refused_when_it_answers(tmp_path: Path) -> None:
    path = save(
        tmp_path / "a.onnx",
        [node("Relu", ["x"], ["y"])],
        [value("x", FLOAT, ["b", 3, "h", "w"])],
        [value("y", FLOAT, ["b", "k", "h", "w"])],
    )
    with pytest.raises(ClassifierOutputError, match="a score for each place, as segmentation models answer"):
        OnnxClassifier(path)(pictures())


def test_inputs_with_a_value_of_their_own_are_left_alone(tmp_path: Path) -> None:
    path = save(
        tmp_path / "a.onnx",
        [node("Mul", ["x", "gain"], ["z"]), means("z", "y")],
        [value("x", FLOAT, ["b", 3, "h", "w"]), value("gain", FLOAT, [1])],
        [value("y", FLOAT, ["b", 3])],
        [table("gain", [2.0])],
    )
    assert OnnxClassifier(path)(pictures()).tolist() == EXPECTED


@pytest.mark.parametrize(
    ("kind", "shape", "message"),
    [
        (STRING, ["b", 1], "decodes files or text itself"),
        (FLOAT, ["b", 4, 8, 8], "expected 1 or 3 channels in axis 1 or 3"),
        (FLOAT, ["b", 3, 8, 8, 8], "expected 4 axes"),
        (FLOAT, ["b"], "expected 4 axes"),
        (FLOAT, [1, 3, 100_000, 100_000], "more than 268435456 numbers at a time"),
        (FLOAT, [10_000_000, 3, 224, 224], "more than 268435456 numbers at a time"),
        (FLOAT, ["b", 3, 8, 3], "the channels may be axis 1 or 3"),
    ],
)
def test_inputs_that_are_no_pictures(kind: int, shape: list[int | str], message: str, tmp_path: Path) -> None:
    nodes = [node("Shape", ["x"], ["s"]), node("Cast", ["s"], ["y"], to=FLOAT)]
    path = save(tmp_path / "a.onnx", nodes, [value("x", kind, shape)], [value("y", FLOAT, None)])
    with pytest.raises((ConfigError, ClassifierError), match=message):
        OnnxClassifier(path)


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "missing.bin"])
def test_weights_outside_the_folder_are_refused(location: str, tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(64))
    outside = helper.make_tensor("gain", FLOAT, [1], [2.0])
    outside.ClearField("float_data")
    outside.data_location = TensorProto.EXTERNAL
    outside.external_data.add(key="location", value=location)
    (tmp_path / "inner").mkdir()
    path = save(
        tmp_path / "inner/a.onnx",
        [node("Mul", ["x", "gain"], ["z"]), means("z", "y")],
        [value("x", FLOAT, ["b", 3, "h", "w"])],
        [value("y", FLOAT, ["b", 3])],
        [outside],
    )
    with pytest.raises(ClassifierError, match=r"a\.onnx: not a usable ONNX model"):
        OnnxClassifier(path)
