"""Answers on disk: found again after a crash, and never wrong, whatever happens to the file."""

import os
import sqlite3
from pathlib import Path

import pytest
import torch

from maskrestore.classifiers import answer_cache
from maskrestore.classifiers.answer_cache import AnswerCache

PICTURES = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = [3, 0, -7, 2**62, 1, 1]


def filled(path: Path) -> list[bytes]:
    """Fill a cache, and leave it as a process that is killed does."""
    cache = AnswerCache(path, "model")
    keys = cache.keys(PICTURES)
    cache.put(keys, LABELS)
    cache.close()
    return keys


def test_answers_are_found_by_picture_shape_and_classifier(tmp_path):
    keys = filled(tmp_path / "out/answers.sqlite")
    cache = AnswerCache(tmp_path / "out/answers.sqlite", "model")
    assert cache.get(cache.keys(PICTURES)) == LABELS
    assert cache.found == len(cache) == 6
    assert cache.get(cache.keys(PICTURES + 1e-7)) == [None] * 6
    assert cache.get(cache.keys(PICTURES.reshape(6, 3, 4, 16))) == [None] * 6
    assert AnswerCache(tmp_path / "a", "other").keys(PICTURES) != keys
    assert cache.keys(PICTURES.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)) == keys  # strides do not matter


def test_answers_of_this_run_are_not_looked_up(tmp_path):
    cache = AnswerCache(tmp_path / "a", "model")
    cache.put(cache.keys(PICTURES), LABELS)
    assert cache.get(cache.keys(PICTURES)) == [None] * 6


@pytest.mark.parametrize("damage", ["cut", "noise", "text", "empty", "other table", "folder"])
def test_a_damaged_file_is_begun_anew(damage, tmp_path):
    path = tmp_path / "answers.sqlite"
    keys = filled(path)
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "noise":
        path.write_bytes(content[:100] + os.urandom(len(content) - 100))
    elif damage == "text":
        path.write_text("no database")
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
        if damage == "folder":
            path.mkdir()
        else:
            with sqlite3.connect(path) as database:
                database.execute("CREATE TABLE answers (other TEXT)")
    cache = AnswerCache(path, "model")
    assert cache.get(keys) == [None] * 6
    cache.put(keys, LABELS)
    cache.close()
    again = AnswerCache(path, "model")
    assert again.get(keys) == ([None] * 6 if damage == "folder" else LABELS)


def test_no_flipped_bit_changes_an_answer(tmp_path):
    path = tmp_path / "answers.sqlite"
    keys = filled(path)
    content = path.read_bytes()
    changed = 0
    for place in range(0, len(content), 37):
        damaged = bytearray(content)
        damaged[place] ^= 0x10
        path.write_bytes(damaged)
        cache = AnswerCache(path, "model")
        found = cache.get(keys)
        cache.close()
        assert all(label in (None, expected) for label, expected in zip(found, LABELS, strict=True))
        changed += found != LABELS
    assert changed


def test_a_folder_that_cannot_be_written_means_no_cache(tmp_path):
    (tmp_path / "file").write_text("")
    cache = AnswerCache(tmp_path / "file" / "answers.sqlite", "model")
    keys = cache.keys(PICTURES)
    cache.put(keys, LABELS)
    assert cache.get(keys) == [None] * 6
    cache.discard()


def test_the_oldest_answers_make_room(monkeypatch, tmp_path):
    monkeypatch.setattr(answer_cache, "_MOST", 4)
    keys = filled(tmp_path / "a")
    assert AnswerCache(tmp_path / "a", "model").get(keys) == [None, None, *LABELS[2:]]


def test_a_discarded_cache_is_gone(tmp_path):
    filled(tmp_path / "a")
    cache = AnswerCache(tmp_path / "a", "model")
    cache.get(cache.keys(PICTURES))
    cache.discard()
    assert list(tmp_path.iterdir()) == []
