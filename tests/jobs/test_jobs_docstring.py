"""The example in the documentation of ``maskrestore.jobs`` runs as it is written."""

import inspect
import textwrap

import maskrestore.jobs
from fakes import PatchTriggerClassifier, plain_images
from maskrestore.imaging.codec import write_png


def example() -> str:
    text = inspect.getdoc(maskrestore.jobs)
    code = text[text.index("::\n") + 3 : text.index("\nCalling it again")]
    return textwrap.dedent(code)


def test_the_example_runs_and_continues(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for index, image in enumerate(plain_images(3)):
        write_png(tmp_path / f"photos/{index}.png", image)
    model = PatchTriggerClassifier()
    names = {"model": model}
    exec(example(), names)
    assert "3 purified, 0 labels changed, 0 failed" in capsys.readouterr().out
    assert (tmp_path / "cleaned/report.html").is_file()
    assert names["summary"].queries > 0
    first = (tmp_path / "cleaned/records.jsonl").read_text()
    exec(example(), names)
    assert names["summary"].reused == 3
    assert names["summary"].queries == 0
    assert (tmp_path / "cleaned/records.jsonl").read_text() == first
