import pytest
import torch
import torch.nn.functional as F

from maskrestore.errors import ConfigError
from maskrestore.imaging.patches import tokens_to_pixels
from maskrestore.imaging.views import Convention, View

CONVENTIONS: tuple[Convention, ...] = ("crop", "squash", "letterbox")


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_picture_of_the_size_of_the_view_stays_as_it_is(convention: Convention) -> None:
    image = torch.rand(3, 24, 24)
    assert torch.equal(View(height=24, width=24, convention=convention).show(image), image)


@pytest.mark.parametrize("shape", [(60, 100), (100, 60), (48, 48), (400, 37)])
@pytest.mark.parametrize("share", [1.0, 0.875])
def test_crop_resizes_the_shorter_side_and_cuts_out_the_centre(shape: tuple[int, int], share: float) -> None:
    image = torch.rand(3, *shape)
    size = [round(side * 32 / share / min(shape)) for side in shape]
    whole = F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]
    top, left = (round((side - 32) / 2) for side in size)
    expected = whole[:, top : top + 32, left : left + 32]
    if max(shape) > 8 * min(shape):  # cut off first
        expected = View(height=32, width=32, crop_share=share).show(image[:, 52:348])
    assert torch.allclose(View(height=32, width=32, crop_share=share).show(image), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("convention", "shape", "shown"),
    [
        ("crop", (10, 25), (10, 10)),
        ("crop", (10, 100), (10, 10)),
        ("squash", (10, 25), (10, 25)),
        ("squash", (10, 90), (10, 32)),
        ("letterbox", (10, 25), (25, 25)),
        ("letterbox", (10, 64), (32, 32)),
    ],
)
def test_nothing_is_enlarged(convention: Convention, shape: tuple[int, int], shown: tuple[int, int]) -> None:
    found = View(height=32, width=32, convention=convention).show(torch.rand(1, *shape))
    assert tuple(found.shape[1:]) == shown


def test_a_small_picture_keeps_its_pixels() -> None:
    image = torch.rand(3, 10, 24)
    assert torch.equal(View(height=32, width=32).show(image), image[:, :, 7:17])
    boxed = View(height=48, width=48, convention="letterbox").show(image)
    assert torch.equal(boxed[:, 7:17], image)


def test_squash_and_letterbox_show_the_whole_picture() -> None:
    image = torch.rand(3, 40, 80)
    whole = F.interpolate(image[None], (16, 32), mode="bilinear", antialias=True)[0]
    boxed = View(height=32, width=32, convention="letterbox", fill=0.5).show(image)
    assert torch.allclose(boxed[:, 8:24], whole)
    assert boxed[:, :8].unique().tolist() == boxed[:, 24:].unique().tolist() == [0.5]
    squashed = View(height=32, width=32, convention="squash").show(image)
    assert torch.allclose(squashed, F.interpolate(image[None], (32, 32), mode="bilinear", antialias=True)[0])


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 20_000), (20_000, 1), (3, 900), (900, 3), (224, 225)])
def test_lines_panoramas_and_tiny_pictures_get_a_view(convention: Convention, shape: tuple[int, int]) -> None:
    view = View(height=32, width=24, convention=convention)
    image = torch.full((1, *shape), 0.25)
    shown = view.show(image)
    assert 1 <= shown.shape[1] <= 32
    assert 1 <= shown.shape[2] <= 24
    assert float(shown.max()) == pytest.approx(0.25)
    everything = torch.ones(4, 4, dtype=torch.bool)
    full = view.paste(image, torch.ones_like(shown), everything)
    assert full.shape == image.shape
    assert float(full.max()) == 1


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("shape", [(60, 100), (100, 60), (300, 300), (9, 12)])
def test_what_was_restored_is_pasted_at_its_place_and_nothing_else_changes(
    convention: Convention, shape: tuple[int, int]
) -> None:
    view = View(height=32, width=32, convention=convention)
    image = torch.rand(3, *shape) * 0.5
    hidden = torch.zeros(8, 8, dtype=torch.bool)
    hidden[3:5, 3:5] = True
    shown = view.show(image)
    purified = torch.where(tokens_to_pixels(hidden[None], *shown.shape[1:])[0], torch.ones(()), shown)
    full = view.paste(image, purified, hidden)
    changed = (full != image).any(dim=0)
    assert torch.equal(full[:, ~changed], image[:, ~changed])
    rows, columns = (changed.any(dim=side).nonzero().float() for side in (1, 0))
    pixel = max(1, max(shape) / 32)  # a pixel of the view may be several pixels of the picture
    assert float(rows.mean()) == pytest.approx((shape[0] - 1) / 2, abs=pixel)  # the centre was hidden
    assert float(columns.mean()) == pytest.approx((shape[1] - 1) / 2, abs=pixel)
    if min(shape) > 32:  # shown again, the restored tokens look as they did, but for the blur at their edges
        assert float((view.show(full)[:, 14:18, 14:18] - 1).abs().max()) < 0.3


def test_nothing_hidden_changes_nothing() -> None:
    image = torch.rand(3, 50, 70)
    view = View(height=32, width=32)
    assert torch.equal(view.paste(image, view.show(image), torch.zeros(4, 4, dtype=torch.bool)), image)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"height": 0}, "at least 1 x 1 pixels, got 0 x 8"),
        ({"convention": "stretch"}, "expected one of crop, squash, letterbox, got 'stretch'"),
        ({"crop_share": 0.0}, "crop_share must be in"),
        ({"fill": 2.0}, "fill must be in"),
    ],
)
def test_settings_are_checked(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        View(**{"height": 8, "width": 8, **settings})  # type: ignore[arg-type]
