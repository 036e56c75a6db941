"""Options of the classifier, on the command line of purify."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from maskrestore.cli.classifier_options import parse_range, parse_size
from maskrestore.errors import ConfigError
from maskrestore.imaging.codec import write_png
from onnx_graphs import means, save, value

pytestmark = pytest.mark.usefixtures("grey_restorer")


def save_means() -> None:
    """A model whose scores are the means of the channels."""
    save(
        Path("model.onnx"),
        [means("x", "y")],
        [value("x", TensorProto.FLOAT, ["b", 3, "h", "w"])],
        [value("y", TensorProto.FLOAT, ["b", 3])],
    )


@pytest.fixture
def colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three pictures whose strongest channel is their label; the working directory is the one above."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "colours"
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    for name, colour in {"0": (200, 60, 30), "1": (60, 200, 30), "2": (60, 30, 200)}.items():
        noise = torch.randint(0, 25, (3, 16, 16), generator=generator)
        write_png(folder / f"{name}.png", (torch.tensor(colour)[:, None, None] + noise).to(torch.uint8))
    return folder


@pytest.fixture
def labels(invoke, colours):
    """The labels that a command line finds, in the order of the pictures."""

    def run(*options: object) -> list[int]:
        done = invoke("purify", colours, "--out", "out", "--classifier", "model.onnx", "--again", *options)
        assert done.exit_code == 0, done.output
        return [json.loads(line)["label"] for line in Path("out/records.jsonl").read_text().splitlines()]

    return run


def test_an_output_is_named(labels, invoke, colours):
    weights = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    save(
        Path("model.onnx"),
        [
            means("x", "m"),
            helper.make_node("MatMul", ["m", "w"], ["embedding"]),
            helper.make_node("Identity", ["m"], ["logits"]),
        ],
        [value("x", TensorProto.FLOAT, ["b", 3, "h", "w"])],
        [value("embedding", TensorProto.FLOAT, ["b", 8]), value("logits", TensorProto.FLOAT, ["b", 3])],
        [numpy_helper.from_array(weights, "w")],
    )  # fmt: skip
    refused = invoke("purify", colours, "--out", "out", "--classifier", "model.onnx")
    assert refused.exit_code == 2
    assert "it is not clear which one is the answer" in refused.stderr
    assert "--output NAME" in refused.stderr
    assert not Path("out/records.jsonl").exists()
    assert labels("--output", "logits") == [0, 1, 2]
    assert max(labels("--output", "embedding")) > 2


def test_a_batch_that_is_baked_in(labels, invoke, colours):
    save(
        Path("model.onnx"),
        [means("x", "m"), helper.make_node("Reshape", ["m", "shape"], ["y"])],
        [value("x", TensorProto.FLOAT, ["b", 3, "h", "w"])],
        [value("y", TensorProto.FLOAT, ["b", 3])],
        [numpy_helper.from_array(np.array([1, 3]), "shape")],
    )
    assert labels("--micro-batch", 1) == [0, 1, 2]
    with pytest.warns(UserWarning, match=r"fails with 8 images at a time and works with one.*--micro-batch 1"):
        assert labels() == [0, 1, 2]


def test_range_order_size_and_layout(labels, colours):
    # Blue minus red, above 100: only for a picture in 0..255 whose first channel is blue.
    nodes = [means("x", "m", axes=(1,)), helper.make_node("Gather", ["m", "ends"], ["bgr"], axis=1)]
    nodes += [
        helper.make_node("MatMul", ["bgr", "difference"], ["d"]),
        helper.make_node("Sub", ["d", "hundred"], ["y"]),
    ]
    save(
        Path("model.onnx"),
        [helper.make_node("Reshape", ["rows", "shape"], ["x"]), *nodes],
        [value("rows", TensorProto.FLOAT, ["b", 3 * 8 * 8])],
        [value("y", TensorProto.FLOAT, ["b", 1])],
        [
            numpy_helper.from_array(np.array([0, 64, 3]), "shape"),
            numpy_helper.from_array(np.array([0, 2]), "ends"),
            numpy_helper.from_array(np.array([[1.0], [-1.0]], np.float32), "difference"),
            numpy_helper.from_array(np.array([100.0], np.float32), "hundred"),
        ],
    )
    flat = ("--input-size", "8x8", "--layout", "flat-hwc", "--threshold", 0)
    assert labels(*flat, "--pixel-range", "0..255", "--channel-order", "bgr") == [0, 0, 1]
    assert labels(*flat, "--pixel-range", "0..255") == [1, 0, 0]
    assert labels(*flat) == [0, 0, 0]


def test_options_of_the_classifier_are_part_of_the_results(invoke, colours):
    save_means()
    run = ("purify", colours, "--out", "out", "--classifier", "model.onnx")
    assert "(0 of them by an earlier run)" in invoke(*run).stdout
    assert "(3 of them by an earlier run)" in invoke(*run).stdout
    for options in (
        ("--pixel-range", "0..255"),
        ("--input-size", "8"),
        ("--micro-batch", 2),
        ("--channel-order", "bgr"),
    ):
        assert "(0 of them by an earlier run)" in invoke(*run, *options).stdout, options
        assert "(3 of them by an earlier run)" in invoke(*run, *options).stdout, options


def test_what_was_assumed_is_said(invoke, colours):
    save(
        Path("model.onnx"),
        [helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT), means("f", "y", axes=(1, 2))],
        [value("x", TensorProto.UINT8, ["b", "h", "w", 3])],
        [value("y", TensorProto.FLOAT, ["b", 3])],
    )
    done = invoke("purify", colours, "--out", "out", "--classifier", "model.onnx")
    assert done.exit_code == 0, done.output
    assert "note: pixels are 0 to 255, because the model takes uint8" in done.stderr


def test_names_of_classes_are_kept_with_the_records(labels, colours):
    names = ["red", "green", "blue"]
    nodes = [
        means("x", "p"),
        helper.make_node("ArgMax", ["p"], ["i"], axis=1, keepdims=0),
        helper.make_node(
            "LabelEncoder", ["i"], ["y"], domain="ai.onnx.ml", keys_int64s=[0, 1, 2], values_strings=names
        ),
    ]
    inputs, outputs = [value("x", TensorProto.FLOAT, ["b", 3, "h", "w"])], [value("y", TensorProto.STRING, ["b"])]
    save(Path("model.onnx"), nodes, inputs, outputs)
    assert labels() == [0, 1, 2]
    assert json.loads(Path("out/classes.json").read_text()) == names
    assert "green" in Path("out/report.html").read_text()
    Path("names.txt").write_text("blue\ngreen\nred\n")
    assert labels("--class-names", "names.txt") == [2, 1, 0]
    assert json.loads(Path("out/classes.json").read_text()) == names[::-1]


def test_texts_of_ranges_and_sizes():
    assert parse_range("0..255") == (0, 255)
    assert parse_range("-1..1") == (-1, 1)
    assert parse_size("224") == (224, 224)
    assert parse_size("224x160") == (224, 160)
    for text in ("0", "a..b", "..", "0-255"):
        with pytest.raises(ConfigError, match="two numbers"):
            parse_range(text)
    for text in ("", "x", "12x", "x12", "-3", "3.5", "1x2x3"):
        with pytest.raises(ConfigError, match="one number, or height and width"):
            parse_size(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--model-precision", "bfloat16"), "precision: for torch modules"),
        (("--binary",), "binary: for classifiers behind an address"),
        (("--most-bytes", 5), "most_bytes: for classifiers behind an address"),
    ],
)
def test_options_of_other_kinds_are_refused(invoke, colours, options, message):
    save_means()
    run = ("purify", colours, "--out", "out", "--classifier", "model.onnx")
    assert invoke(*run, "--model-threads", 2).exit_code == 0
    done = invoke(*run, *options)
    assert done.exit_code == 2
    assert message in done.stderr
