"""The HTML report: one self-contained file that shows every image and trusts no text."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
import tracemalloc
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from maskrestore.defense.doubt import ABSTAINED
from maskrestore.errors import ConfigError
from maskrestore.reporting import Metric, ReportEntry, ReportSummary, entries_from, write_report
from maskrestore.types import Purification

VOID = {"meta", "img", "input", "br", "link", "hr"}


class Page(HTMLParser):
    """A parsed report: its elements, its text, and whether every element was closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == [], f"never closed: {self.open}"
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    def all(self, tag: str, css_class: str = "") -> list[dict[str, str | None]]:
        return [a for t, a in self.elements if t == tag and css_class in (a.get("class") or "")]


def purified(images: torch.Tensor, *, maps: bool = True, changed: int = 1) -> Purification:
    """A made-up result: the top left token is made black, the first ``changed`` labels go from 0 to 1."""
    count, grid = len(images), 4
    hidden = torch.zeros(count, grid, grid, dtype=torch.bool)
    hidden[:, 0, 0] = True
    result = images.clone()
    result[..., : images.shape[-2] // grid, : images.shape[-1] // grid] = 0
    labels = torch.zeros(count, dtype=torch.int64)
    labels[:changed] = 1
    scores = torch.linspace(-0.2, 1.2, count * grid * grid).view(count, grid, grid)
    refined = dict.fromkeys(("scores", "image_scores", "label_scores"), scores)
    initial = dict.fromkeys(("initial_image_scores", "initial_label_scores"), scores / 2)
    return Purification(
        images=result,
        labels=labels,
        original_labels=torch.zeros(count, dtype=torch.int64),
        queries=torch.arange(count) + 27,
        hidden=hidden if maps else None,
        **(refined | initial if maps else {}),
    )


def made_entries(count: int, *, maps: bool = True, changed: int = 1, **more) -> list[ReportEntry]:
    images = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    names = [f"image-{i:04d}.png" for i in range(count)]
    return entries_from(images, purified(images, maps=maps, changed=changed), names=names, **more)


def written(tmp_path, *args, **kwargs) -> tuple[Page, str]:
    html = write_report(tmp_path / "out", *args, **kwargs).read_text("utf-8")
    return Page(html), html


def picture(source: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.split(",", 1)[1]))))


def test_the_file_needs_nothing_from_outside_and_runs_no_script(tmp_path):
    page, html = written(tmp_path, made_entries(3))
    assert html.startswith("<!doctype html>")
    text = re.sub(r"base64,[A-Za-z0-9+/=]+", "", html)
    assert not re.search(r"https?:|//|@import|url\(", text, re.IGNORECASE)
    assert not page.all("script")
    assert not page.all("link")
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.all("img"))
    policy = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv")]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.html"]


def test_each_image_has_nine_pictures_with_descriptions(tmp_path):
    entries = made_entries(3)
    page, _ = written(tmp_path, entries)
    images = page.all("img")
    assert len(images) == 3 * 9
    for entry, first in zip(entries, range(0, 27, 9), strict=True):
        assert all(entry.name in image["alt"] for image in images[first : first + 9])
        assert np.array_equal(picture(images[first]["src"]), entry.evidence.original)
        assert np.array_equal(picture(images[first + 7]["src"]), entry.evidence.purified)
        removed = picture(images[first + 8]["src"])
        assert removed[:2, :2].any()
        assert not removed[2:].any()
        assert not removed[:, 2:].any()


def test_labels_queries_and_verdicts_are_told(tmp_path):
    names = ("stop", "yield")
    page, _ = written(
        tmp_path,
        made_entries(4, changed=2, true_labels=[1, 0, 0, 1], notes=["triggered", "", "", ""]),
        class_names=names,
    )
    for words in ("was wrong, now correct", "was correct, now wrong", "correct before and after", "wrong before"):
        assert words in page.text
    assert re.search(
        r"image-0000.png triggered stop → becomes yield ✓ was wrong, now correct true label yield .?27 queries",
        page.text,
    )
    assert "Labels changed 2" in page.text
    assert "Queries per image 28.5 (at most 30)" in page.text


def test_failures_come_first_and_each_kind_of_result_is_shown(tmp_path):
    # By 12 images each: correct before and after, recovered, lost, wrong before and after.
    truth = [0] * 12 + [1] * 12 + [0] * 12 + [1] * 12
    entries = made_entries(48, true_labels=truth)
    for group, label in enumerate((0, 1, 1, 0)):
        rows = slice(12 * group, 12 * group + 12)
        entries[rows] = [dataclasses.replace(entry, label=label) for entry in entries[rows]]
    page, _ = written(tmp_path, entries, max_detailed=30)
    kinds = [article["class"].removeprefix("card is-") for article in page.all("article")]
    assert kinds == ["wrong"] * 12 + ["lost"] * 8 + ["recovered"] * 5 + ["kept"] * 5
    names = [image["alt"].split(" of ")[1].split(":")[0] for image in page.all("img")[::9]]
    assert names[:2] == ["image-0036.png", "image-0037.png"]
    assert "wrong before and after (12)" in page.text


def test_an_unchanged_label_is_said_once(tmp_path):
    page, _ = written(tmp_path, made_entries(2), class_names=["stop", "yield"], max_detailed=1)
    assert "image-0000.png stop → becomes yield" in page.text
    assert "image-0001.png stop = label unchanged" in page.text


def test_without_the_truth_no_verdict_on_correctness_is_given(tmp_path):
    page, _ = written(tmp_path, made_entries(2))
    assert "class 0 → becomes class 1" in page.text
    assert "label changed" in page.text
    assert "correct" not in page.text
    assert "True label" not in page.text


@pytest.mark.parametrize(
    "attack",
    [
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "</style><b>x",
        "{{ 7*7 }}{% raw %}",
        "a&lt;b'c",
    ],
)
def test_no_text_can_become_markup(tmp_path, attack):
    images = torch.rand(1, 3, 8, 8)
    pages = []
    for text in (attack, "harmless"):
        arguments = {"class_names": [text] * 2, "errors": [(text, text)]}
        pages.append(written(tmp_path, *everywhere(text, images), **arguments)[0])
    page, harmless = pages
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in harmless.elements]
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert page.text.count(attack) >= 10


def everywhere(text: str, images: torch.Tensor) -> tuple[list[ReportEntry], ReportSummary]:
    metric = Metric(name=text, meaning=text, before=0.5, after=0.25)
    summary = ReportSummary(title=text, description=text, metrics=[metric], settings={text: text}, key_fingerprint=text)
    return entries_from(images, purified(images), names=[text], notes=[text], true_labels=[0]), summary


def test_undecodable_and_deceptive_names_are_spelled_out(tmp_path):
    images = torch.rand(1, 3, 8, 8)
    entries = entries_from(images, purified(images), names=["a\udcff\u202egnp\n.exe"])
    page, _ = written(tmp_path, entries, errors=[("\udc80", "bad\x00byte")])
    assert r"a\udcff\u202egnp\n.exe" in page.text
    assert r"\udc80" in page.text
    assert r"bad\x00byte" in page.text


def test_every_entry_is_present_and_changed_ones_come_with_pictures(tmp_path):
    entries = made_entries(40, changed=3)
    entries = entries[3:] + entries[:3]  # the changed ones last
    page, _ = written(tmp_path, iter(entries), max_detailed=5)
    assert len(page.all("article")) == 5
    assert len(page.all("img")) == 5 * 9
    for entry in entries:
        assert entry.name in page.text
    shown = [image["alt"].split(" of ")[1].split(":")[0] for image in page.all("img")[::9]]
    assert shown == ["image-0000.png", "image-0001.png", "image-0002.png", "image-0003.png", "image-0004.png"]
    assert "5 of 40 images are shown here" in page.text


def test_thousands_of_entries_are_listed_up_to_a_cap(tmp_path):
    entries = [ReportEntry(name=f"n{i}", original_label=0, label=0, queries=2) for i in range(3000)]
    page, html = written(tmp_path, entries, max_listed=1000)
    assert len(page.all("tr")) == 1 + 1000
    assert "2000 more images are not listed here." in page.text
    assert "Images 3,000" in page.text
    assert len(html) < 1_000_000


def test_changed_labels_come_first_in_the_table_too(tmp_path):
    entries = [ReportEntry(name=f"n{i}", original_label=0, label=int(i >= 90)) for i in range(100)]
    page, _ = written(tmp_path, entries, max_listed=12)
    assert re.findall(r"\bn\d+", page.text) == [*(f"n{i}" for i in range(90, 100)), "n0", "n1"]
    assert "88 more images are not listed here." in page.text


def test_pictures_are_asked_for_only_where_they_are_shown(tmp_path):
    pictured = {entry.name: entry for entry in made_entries(40, changed=3)}
    bare = [ReportEntry(name=name, original_label=0, label=entry.label) for name, entry in pictured.items()]
    asked = []

    def evidence_of(name: str):
        asked.append(name)
        return None if name == "image-0001.png" else pictured[name].evidence

    page, _ = written(tmp_path, reversed(bare), max_detailed=5, max_listed=10, evidence_of=evidence_of)
    assert asked == [f"image-{i:04d}.png" for i in (2, 1, 0, 39, 38)]
    assert len(page.all("article")) == 4
    assert "4 of 40 images are shown here; some of the others" in page.text
    assert "26 more images are not listed here." in page.text
    assert page.text.count("image-0001.png") == 1


def test_errors_beyond_the_cap_are_counted(tmp_path):
    errors = ((f"broken-{i}.png", "truncated") for i in range(30))
    page, _ = written(tmp_path, [], errors=errors, max_listed=20)
    assert "Failed 30" in page.text
    assert "Could not be processed: 30" in page.text
    assert page.text.count("truncated") == 20
    assert "10 more are not listed here." in page.text
    page, _ = written(tmp_path, [], errors=[("a", "b")], max_listed=0)
    assert "Could not be processed: 1" in page.text


def test_memory_does_not_grow_with_the_number_of_entries(tmp_path):
    def peak(count: int) -> int:
        entries = (ReportEntry(name=f"n{i}", original_label=0, label=i % 2, queries=2) for i in range(count))
        errors = ((f"e{i}", "truncated") for i in range(count))
        tracemalloc.start()
        try:
            write_report(tmp_path, entries, errors=errors, max_detailed=5, max_listed=20)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(10)
    assert peak(5000) - peak(500) < 20 * 4500  # bytes


def test_a_defense_without_maps_has_only_the_columns_it_can_fill(tmp_path):
    page, _ = written(tmp_path, made_entries(2, maps=False))
    assert len(page.all("img")) == 2 * 3
    assert "Hidden" not in page.text
    mixed, _ = written(tmp_path, made_entries(1) + made_entries(1, maps=False))
    assert len(mixed.all("img")) == 9 + 3
    assert mixed.text.count("not available") == 6


def test_large_and_grey_images_are_reduced_and_shown(tmp_path):
    image = torch.rand(1, 1, 500, 1000)
    entries = entries_from(image, purified(image), names=["wide"])
    page, html = written(tmp_path, entries)
    assert entries[0].evidence.original.shape == (112, 224, 3)
    assert picture(page.all("img")[0]["src"]).shape == (112, 224, 3)
    assert "1000 × 500 px" in page.text
    assert "aspect-ratio: 1000 / 500" in html


def test_metrics_settings_and_speed_stand_on_top(tmp_path):
    metric = Metric(
        name="ASR", meaning="attack success", before=0.987, after=0.0081, higher_is_better=False, images=375
    )
    metric_with_range = Metric(name="CA", meaning="clean accuracy", before=1, after=0.98, after_interval=(0.96, 0.99))
    summary = ReportSummary(
        title="Demo",
        metrics=[metric, metric_with_range],
        settings={"profile": "default", "masks.rounds": 5, "scores.windows": (1, 3)},
        key_fingerprint="9f86d081",
        images_per_second=15.23,
        seconds=51.1,
    )
    page, _ = written(tmp_path, made_entries(1), summary)
    assert "attack success ASR, lower is better, 375 images before 98.7 % after 0.8 %" in page.text
    assert "after 98.0 % 96.0 – 99.0" in page.text
    assert "95 % confidence" in page.text
    for words in (
        "profile default",
        "masks rounds 5",
        "scores windows 1, 3",
        "Key fingerprint 9f86d081",
        "Images per second 15.2",
        "Time 51.1 s",
    ):
        assert words in page.text


def test_a_folder_of_failures_still_gives_a_report(tmp_path):
    page, _ = written(tmp_path, [], errors=[("broken.png", "the file is truncated")])
    assert "broken.png the file is truncated" in page.text
    assert "Failed 1" in page.text
    empty, _ = written(tmp_path, [])
    assert "No image was processed." in empty.text


def test_wrong_numbers_are_refused(tmp_path):
    images = torch.rand(2, 3, 8, 8)
    with pytest.raises(ValueError, match="2 images, 2 results, 1 names"):
        entries_from(images, purified(images), names=["one"])
    with pytest.raises(ValueError, match="3 true_labels"):
        entries_from(images, purified(images), names=["one", "two"], true_labels=[0, 0, 0])
    with pytest.raises(ConfigError, match="max_detailed is -1"):
        write_report(tmp_path, [], max_detailed=-1)


def test_entries_do_not_keep_the_batch_alive():
    images = torch.rand(2, 3, 8, 8)
    result = purified(images)
    entries = entries_from(images, result, names=["a", "b"])
    before = entries[0].evidence.scores.copy()
    result.scores.zero_()
    images.zero_()
    assert np.array_equal(entries[0].evidence.scores, before)
    assert entries[0].evidence.original.any()


def test_a_change_too_small_for_the_thumbnail_is_not_called_unchanged(tmp_path):
    image = torch.full((1, 3, 1120, 1120), 0.5)
    result = purified(image)
    result.images.copy_(image)
    untouched, _ = written(tmp_path, entries_from(image, result, names=["x"]))
    assert "unchanged" in untouched.text.split("Purified")[-1].split("Removed")[0]
    result.images[0, 0, 1000, 1000] = 1.0
    page, _ = written(tmp_path, entries_from(image, result, names=["x"]))
    assert "Purified restored Removed at most 0.50" in page.text


def test_labels_that_are_not_known_are_not_counted_as_unchanged(tmp_path):
    entries = [ReportEntry(name=f"n{i}", original_label=None, label=i, queries=1) for i in range(3)]
    page, _ = written(tmp_path, entries, class_names=["a", "b"])
    assert "Images 3" in page.text
    assert "Labels changed" not in page.text
    assert "label unchanged" not in page.text
    assert page.text.count("label of the restored image") == 3
    assert "class 2 (no name)" in page.text


def test_what_was_not_looked_at_is_shown_by_reason(tmp_path):
    left_out = {"not a picture": (7, ["notes.txt", "<b>.md"]), "hidden file": (1, [".x.png"])}
    page, _ = written(tmp_path, made_entries(1), ReportSummary(left_out=left_out))
    assert "Left out 8" in page.text
    assert "Not looked at: 8" in page.text
    assert "not a picture 7 notes.txt, <b>.md, …" in page.text
    assert "hidden file 1 .x.png" in page.text
    assert "Not looked at" not in written(tmp_path, made_entries(1))[0].text


def rated(name: str, *, changed: bool = False, **more) -> ReportEntry:
    return ReportEntry(name=name, original_label=0, label=int(changed), suspicion=0.256, **more)


def test_answers_in_doubt_are_marked_and_counted(tmp_path):
    entries = [
        rated("kept"),
        rated("none", doubtful=True, answer=ABSTAINED),
        rated("other", changed=True, doubtful=True, answer=0),
        rated("same", changed=True, doubtful=True),
    ]
    page, _ = written(tmp_path, entries, class_names=["stop", "yield"])
    assert "Labels changed 2 Answers in doubt 3 Not answered 1" in page.text
    assert "kept stop = label unchanged 0.26" in page.text
    assert "none stop = label unchanged ? in doubt: not answered 0.26" in page.text
    assert "other stop → becomes yield ↻ label changed ? in doubt: answered stop 0.26" in page.text
    assert "same stop → becomes yield ↻ label changed ? in doubt 0.26" in page.text


def test_pictures_in_doubt_come_first_of_their_result_and_have_a_filter(tmp_path):
    entries = made_entries(12, changed=6)
    for index in (4, 5, 11):
        entries[index] = dataclasses.replace(entries[index], suspicion=0.5, doubtful=True)
    page, html = written(tmp_path, entries, max_detailed=6)
    names = [image["alt"].split(" of ")[1].split(":")[0] for image in page.all("img")[::9]]
    assert names == [f"image-{number:04}.png" for number in (4, 5, 0, 1, 2, 11)]
    assert [article["class"] for article in page.all("article", "is-doubtful")] == [
        *("card is-changed is-doubtful", "card is-changed is-doubtful", "card is-same is-doubtful")
    ]
    assert "? in doubt (3)" in page.text
    assert [field["id"] for field in page.all("input") if field["id"] == "show-doubtful"]
    assert "body:has(#show-doubtful:checked) .card:not(.is-doubtful) { display: none; }" in html


def test_a_page_says_nothing_of_suspicion_where_it_is_not_known(tmp_path):
    page, _ = written(tmp_path, [*made_entries(2), ReportEntry(name="listed", original_label=0, label=0)])
    assert not re.search("suspicion|doubt", page.text, re.IGNORECASE)


def test_entries_take_suspicion_and_doubt_from_the_result():
    images = torch.rand(2, 3, 8, 8)
    result = dataclasses.replace(purified(images), suspicion=torch.tensor([0.75, 0.25]))  # the first label changed
    assert [entry.suspicion for entry in entries_from(images, result, names=["a", "b"])] == [0.75, 0.25]
    for limit, expected in ((0.5, [False, False]), (0.2, [True, True]), (0.25, [False, False])):
        entries = entries_from(images, result, names=["a", "b"], doubt_limit=limit)
        assert [entry.doubtful for entry in entries] == expected
