"""The PNG panel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from maskrestore.errors import ConfigError
from maskrestore.reporting import ReportEntry, entries_from, write_figure
from maskrestore.reporting.columns import columns_for
from maskrestore.types import Purification


def made_entries(
    count: int, *, size: tuple[int, int] = (8, 8), maps: bool = True, refined: bool = True, name: str = "image"
) -> list[ReportEntry]:
    images = torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(0)) * 0.2
    fields = ("scores", "image_scores", "label_scores", "initial_image_scores", "initial_label_scores")
    scores = {field: torch.rand(count, 4, 4) if maps else None for field in fields}
    if not refined:
        scores |= {field: scores[field.removeprefix("initial_")] for field in fields}
    result = Purification(
        images=images,
        labels=torch.ones(count, dtype=torch.int64),
        original_labels=torch.zeros(count, dtype=torch.int64),
        queries=torch.full((count,), 47),
        hidden=torch.zeros(count, 4, 4, dtype=torch.bool) if maps else None,
        **scores,
    )
    return entries_from(images, result, names=[name] * count, true_labels=[1] * count)


def opened(path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return image


def test_the_panel_grows_with_rows_columns_and_tiles(tmp_path):
    path = write_figure(tmp_path / "new folder" / "panel.png", made_entries(2), tile=64)
    first = opened(path)
    assert first.format == "PNG"
    assert first.mode == "RGB"
    more_rows = opened(write_figure(tmp_path / "b.png", made_entries(5), tile=64))
    assert more_rows.width == first.width
    assert more_rows.height == first.height + 3 * (64 + 8)
    fewer_columns = opened(write_figure(tmp_path / "c.png", made_entries(2, maps=False), tile=64))
    assert fewer_columns.height == first.height
    assert fewer_columns.width == first.width - 6 * (64 + 8)
    one_for_each_score = opened(write_figure(tmp_path / "d.png", made_entries(2, refined=False), tile=64))
    assert one_for_each_score.width == first.width - 2 * (64 + 8)


def test_scores_that_were_not_refined_have_one_column_each():
    titles = [column.title for column in columns_for(made_entries(2, refined=False))]
    assert titles == ["Input", "Score map S image", "Score map S label", "Score map S", "Hidden", "Purified", "Removed"]
    refined = columns_for(made_entries(2))
    assert [column.title for column in refined[1:3]] == ["Score map S image before", "Score map S image after"]


def test_rows_are_capped(tmp_path):
    three, many = (write_figure(tmp_path / f"{n}.png", made_entries(n), max_rows=3, tile=32) for n in (3, 9))
    assert opened(three).size == opened(many).size


def test_pictures_are_enlarged_without_blur(tmp_path):
    entries = made_entries(1)
    panel = np.asarray(opened(write_figure(tmp_path / "a.png", entries, tile=64)))
    top, left = 20 + 34, 20 + 210 + 8
    expected = entries[0].evidence.original.repeat(8, axis=0).repeat(8, axis=1)
    assert np.array_equal(panel[top : top + 64, left : left + 64], expected)


def test_images_keep_their_proportions(tmp_path):
    panel = np.asarray(opened(write_figure(tmp_path / "a.png", made_entries(1, size=(10, 40)), tile=64)))
    top, left = 20 + 34, 20 + 210 + 8
    dark = (panel[top : top + 64, left : left + 64] < 100).all(axis=(1, 2))
    assert dark.sum() == 16
    assert dark[24:40].all()


def test_long_and_odd_names_stay_in_their_column(tmp_path):
    plain = np.asarray(opened(write_figure(tmp_path / "a.png", made_entries(1, name="x"))))
    odd = np.asarray(opened(write_figure(tmp_path / "b.png", made_entries(1, name="名\udcff\n" + "w" * 300))))
    assert plain.shape == odd.shape
    assert (odd[:, 20 + 210 : 20 + 210 + 8] == 255).all()


def test_nothing_to_draw_is_an_error_with_a_reason(tmp_path):
    bare = ReportEntry(name="x", original_label=0, label=0)
    with pytest.raises(ConfigError, match="1 entries without any"):
        write_figure(tmp_path / "a.png", [bare])
    with pytest.raises(ConfigError, match="tile is 0"):
        write_figure(tmp_path / "a.png", made_entries(1), tile=0)
    assert not list(tmp_path.iterdir())
