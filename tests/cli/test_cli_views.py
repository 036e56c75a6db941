"""``purify`` on photographs that are larger than the model's input."""

import json

import pytest
import torch

from maskrestore.imaging.codec import read_image, write_png

pytestmark = pytest.mark.usefixtures("grey_restorer")


@pytest.fixture
def purify(invoke, model, tmp_path):
    (tmp_path / "wide").mkdir()
    for name in "ab":
        write_png(tmp_path / f"wide/{name}.png", torch.rand(3, 48, 96))

    def run(*options: object):
        return invoke(
            *("purify", tmp_path / "wide", "--classifier", "toy_model:classify", "--out", tmp_path / "out", *options)
        )

    return run


def records(tmp_path) -> list[dict]:
    return [json.loads(line) for line in (tmp_path / "out/records.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ((), (3, 48, 96)),
        (("--input-size", 16), (3, 16, 16)),
        (("--input-size", "16x24"), (3, 16, 24)),
        (("--input-size", 16, "--resize", "squash"), (3, 16, 16)),
        (("--input-size", 16, "--resize", "letterbox"), (3, 16, 16)),
        (("--input-size", 64), (3, 48, 48)),  # never enlarged
    ],
)
def test_pictures_are_purified_at_the_size_that_the_classifier_sees(purify, tmp_path, options, shape):
    result = purify(*options, "--full-size")
    assert result.exit_code == 0, result.output
    for record in records(tmp_path):
        assert read_image(tmp_path / "out" / record["output"]).shape == shape
        assert read_image(tmp_path / "out" / record["full_size"]).shape == (3, 48, 96)


def test_conventions_show_different_parts(purify, tmp_path):
    shown = {}
    for convention in ("crop", "squash", "letterbox"):
        assert (
            purify("--input-size", 16, "--resize", convention, "--set", "restoration.max_restored=0.001").exit_code == 0
        )
        shown[convention] = read_image(tmp_path / "out/images/a.png")
    assert not torch.equal(shown["crop"], shown["squash"])
    assert float(shown["letterbox"][:, :4].max()) == 0


@pytest.mark.parametrize("option", [("--resize", "crop"), ("--crop-share", 0.875)])
def test_a_convention_needs_a_size(purify, option):
    result = purify(*option)
    assert result.exit_code == 2
    assert f"{option[0]} needs the size of the model's input" in " ".join(result.stderr.split())
