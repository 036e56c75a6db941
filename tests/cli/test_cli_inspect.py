"""``maskrestore inspect``, and the library function behind it."""

from pathlib import Path

import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from maskrestore.classifiers import CallableClassifier, ModuleClassifier
from maskrestore.classifiers.inspection import inspect_classifier, rendered_pictures
from maskrestore.imaging.codec import write_png
from onnx_graphs import maps, means, save, value

FLOAT = TensorProto.FLOAT


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def colours(path: str = "model.onnx", *, shape: tuple[int | str, ...] = ("b", 3, 16, 16)) -> str:
    """A model whose label is the strongest channel."""
    save(Path(path), [means("x", "y")], [value("x", FLOAT, list(shape))], [value("y", FLOAT, ["b", 3])])
    return path


def test_what_is_understood_is_shown_with_the_lines_that_use_it(invoke) -> None:
    write_png("red.png", torch.tensor([0.8, 0.1, 0.1])[:, None, None].expand(3, 20, 30))
    Path("names.txt").write_text("red\ngreen\nblue\n")
    options = ("--mean", "0.1,0.1,0.1", "--class-names", "names.txt")
    done = invoke("inspect", colours(), "red.png", *options)
    assert done.exit_code == 0, done.output
    for line in (
        "model:       ONNX file model.onnx",
        "input:       x: tensor(float), 3 channels, chw",
        "size:        16 x 16, images are resized to that",
        "pixels:      0 to 1, rgb",
        "normalised:  mean 0.1, 0.1, 0.1, std 1",
        "answer:      output y: tensor(float), shape ['b', 3]",
        "classes:     3: red, green, blue",
        "micro-batch: 8 images at a time",
        "device:      CPUExecutionProvider",
        "asked:       red.png (20 x 30) gets the label 0 (red)",
        "             24 rendered pictures get 3 different labels",
    ):
        assert line in done.stdout, line
    assert "warning" not in done.output
    command = (
        "maskrestore purify FOLDER --classifier model.onnx --mean 0.1,0.1,0.1 --class-names names.txt --out cleaned"
    )
    assert command in done.stdout
    python = [
        line.strip() for line in done.stdout.splitlines() if line.startswith("    ") and " = maskrestore." in line
    ]
    assert len(python) == 2
    scope: dict[str, object] = {}
    exec("\n".join(["import maskrestore", *python]), scope)  # what it prints works
    assert scope["shielded"](torch.rand(1, 3, 16, 16)).shape == (1,)  # type: ignore[operator]


def test_the_command_for_a_grey_model_reads_grey_images(invoke) -> None:
    save(Path("grey.onnx"), [means("x", "y")], [value("x", FLOAT, [1, 1, 8, 8])], [value("y", FLOAT, [1, 1])])
    done = invoke("inspect", "grey.onnx", "--threshold", "0.5")
    assert done.exit_code == 0, done.output
    assert "purify FOLDER --classifier grey.onnx --threshold 0.5 --grey --out cleaned" in done.stdout
    assert "micro-batch: 1 image at a time" in done.stdout


def test_names_of_the_file_are_shown(invoke) -> None:
    nodes = [
        means("x", "p"),
        helper.make_node("ZipMap", ["p"], ["loss"], domain="ai.onnx.ml", classlabels_strings=["no", "yes", "so"]),
    ]
    save(Path("model.onnx"), nodes, [value("x", FLOAT, ["b", 3, 8, 8])], [maps("loss")])
    done = invoke("inspect", "model.onnx")
    assert done.exit_code == 0, done.output
    assert "classes:     3: no, yes, so" in done.stdout
    assert "a rendered picture (8 x 8) gets the label" in done.stdout


def test_what_is_unclear_is_an_error_of_usage(invoke) -> None:
    save(
        Path("model.onnx"),
        [means("x", "a"), means("x", "b")],
        [value("x", FLOAT, ["b", 3, 8, 8])],
        [value("a", FLOAT, ["b", 3]), value("b", FLOAT, ["b", 3])],
    )
    done = invoke("inspect", "model.onnx")
    assert done.exit_code == 2
    assert "not clear which one is the answer" in done.stderr
    assert "output b: " in invoke("inspect", "model.onnx", "--output", "b").stdout


def test_a_module_of_transformers(invoke) -> None:
    pytest.importorskip("transformers")
    Path("faces_of_tests.py").write_text(
        "import torch\nfrom transformers import ViTConfig, ViTForImageClassification\n"
        "torch.manual_seed(0)\n"
        "sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)\n"
        "net = ViTForImageClassification(ViTConfig(**sizes, image_size=32, patch_size=8, num_labels=5))\n"
    )
    done = invoke("inspect", "faces_of_tests:net")
    assert done.exit_code == 0, done.output
    assert "model:       PyTorch module ViTForImageClassification" in done.stdout
    assert "a rendered picture (32 x 32)" in done.stdout  # the first size that it takes


def test_a_function(invoke) -> None:
    Path("functions_of_inspect.py").write_text("def classify(images):\n    return [3] * len(images)\n")
    done = invoke("inspect", "functions_of_inspect:classify")
    assert done.exit_code == 0, done.output
    assert "model:       function classify" in done.stdout
    assert "warning: all 24 rendered pictures, however different, get the label 3" in done.stderr


def test_a_classifier_that_fails_says_which_size_to_name(invoke) -> None:
    Path("failing_of_inspect.py").write_text("def classify(images):\n    raise ValueError('no such size')\n")
    done = invoke("inspect", "failing_of_inspect:classify")
    assert done.exit_code == 2
    assert "no such size" in done.stderr
    assert "--input-size" in done.stderr


def picture() -> Tensor:
    return torch.full((1, 3, 16, 16), 0.5)


class Hidden(nn.Module):
    """Tells colours apart only if pixels are 0 to 255."""

    def forward(self, images: Tensor) -> Tensor:
        found = images.mean(dim=(2, 3))
        quarter = torch.stack([found[:, 0] < found[:, 1], found[:, 1] < found[:, 2]], dim=1).float()
        scores = torch.stack([quarter[:, 0] * 2 + quarter[:, 1] == number for number in range(4)], dim=1).float()
        return torch.where(found.amax(dim=1, keepdim=True) > 2, scores, torch.tensor([1.0, 0, 0, 0]))


def test_a_normalisation_that_does_not_fit_is_suspected() -> None:
    found = inspect_classifier(ModuleClassifier(Hidden()), picture())
    assert any(
        "may not fit" in one and "pixels from 0 to 255: 4 labels (--pixel-range 0..255)" in one
        for one in found.warnings
    )


def test_a_few_other_labels_are_no_sign_of_another_normalisation() -> None:
    class Small(nn.Module):
        """Answers 0 to dark pictures, and to pixels from 0 to 255 mostly 1, sometimes 2 to 5."""

        def forward(self, images: Tensor) -> Tensor:
            found = images.amax(dim=(1, 2, 3)).round().long()
            label = torch.where(found > 220, found % 4 + 2, 1)
            return torch.where(found > 1, label, 0)

    found = inspect_classifier(ModuleClassifier(Small()), picture())
    assert not any("may not fit" in one for one in found.warnings)


def test_a_normalisation_that_fits_is_not_suspected() -> None:
    classify = ModuleClassifier(Hidden(), pixel_range=(0, 255))
    assert inspect_classifier(classify, picture()).warnings == []
    assert classify.normalise.pixel_range == (0, 255)  # as it was


def test_answers_that_change_or_depend_on_the_batch_are_said() -> None:
    calls = iter(range(1000))
    changing = inspect_classifier(CallableClassifier(lambda images: [next(calls)] * len(images)), picture())
    assert any("answers differently when it is asked again" in one for one in changing.warnings)

    def relative(images: Tensor) -> Tensor:
        levels = images.mean(dim=(1, 2, 3))
        return (levels > levels.mean()).long()

    batched = inspect_classifier(CallableClassifier(relative), picture())
    assert any("get another label alone than in a batch" in one for one in batched.warnings)


def test_rendered_pictures_are_varied_and_the_same_each_time() -> None:
    for channels, height, width in ((3, 16, 24), (1, 8, 8), (3, 1, 1)):
        pictures = rendered_pictures(channels, height, width)
        assert pictures.shape == (24, channels, height, width)
        assert torch.equal(pictures, rendered_pictures(channels, height, width))
        assert pictures.min() >= 0
        assert pictures.max() <= 1
    assert len({picture.sum().item() for picture in rendered_pictures(3, 16, 24)}) == 24


def test_options_that_begin_with_a_minus_and_devices(invoke) -> None:
    done = invoke("inspect", colours(), "--pixel-range=-1..1", "--channel-order", "bgr")
    assert "--pixel-range=-1..1 --channel-order bgr --out cleaned" in done.stdout
    assert "pixel_range=(-1.0, 1.0)" in done.stdout
    assert "pixels:      -1 to 1, bgr" in done.stdout
