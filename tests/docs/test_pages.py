"""README.md and the pages of the site: their examples run, their commands and links exist, the site builds."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import typer
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser
from typer.testing import CliRunner

pytest.importorskip("zensical", reason="needs the extra docs")

from maskrestore.cli.app import app
from maskrestore.imaging.codec import write_png
from maskrestore.lab.data.signs import load_signs
from scripts import docs as generated

ROOT = generated.ROOT
PAGES = [ROOT / "README.md", *sorted(generated.DOCS.rglob("*.md"))]
WRITTEN = [page for page in PAGES if page.parent.name not in ("results", "notebooks")]
EXAMPLES = Sybil(parsers=[PythonCodeBlockParser(), SkipParser()])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def has_python(page: Path) -> bool:
    return "```python" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", [page for page in WRITTEN if has_python(page)], ids=name_of)
def test_python_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for example in EXAMPLES.parse(page).examples():
        example.evaluate()


def test_the_readme_prints_what_its_comments_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (document,) = {
        id(example.document): example.document for example in EXAMPLES.parse(ROOT / "README.md").examples()
    }.values()
    for example in document.examples():
        example.evaluate()
    printed = [
        [int(label) for label in re.findall(r"\d+", tensor)]
        for tensor in re.findall(r"tensor\(\[([\d, \n]+)\]\)", capsys.readouterr().out)
    ]
    target, truth = document.namespace["victim"].config.target, load_signs("test", count=16).labels.tolist()
    before, shielded, fast = printed[:3]
    assert before == [target] * 16
    for labels in (shielded, fast):
        assert sum(label == true for label, true in zip(labels, truth, strict=True)) >= 15


def shell_lines(page: Path) -> Iterator[list[str]]:
    """Words of each command in a page, without its comment."""
    for language, block in FENCE.findall(page.read_text(encoding="utf-8")):
        if language in ("bash", "console", "sh"):
            yield from (
                line.split(" #")[0].lstrip("$ ").split()
                for line in block.replace("\\\n", "").splitlines()
                if line.strip()
            )


@pytest.mark.parametrize("page", WRITTEN, ids=name_of)
def test_commands_and_options_of_a_page_exist(page: Path) -> None:
    program = typer.main.get_command(app)
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for words in shell_lines(page):
        match words:
            case ["maskrestore", name, *rest] if name[0] not in "-[":
                assert name in program.commands, words
                known = {option for entry in program.commands[name].params for option in entry.opts}
                assert not {word for word in rest if word.startswith("--")} - known, words
            case ["make", target, *_]:
                assert target in targets, words
            case ["python", "-m", module, *_]:
                assert importlib.util.find_spec(module), words
            case [path, *_] if path.startswith("benchmarks/"):
                assert (ROOT / path).exists(), words


@pytest.mark.parametrize("name", generated.REFERENCE)
def test_generated_page_is_up_to_date(name: str) -> None:
    found = (generated.DOCS / name).read_text(encoding="utf-8")
    assert found == generated.REFERENCE[name](), f"docs/{name} is old: run `python -m scripts.docs`"


def test_map_of_the_paper_names_what_exists() -> None:
    names = re.findall(
        r"`(maskrestore(?:\.\w+)+)`", (generated.DOCS / "method/paper-map.md").read_text(encoding="utf-8")
    )
    assert len(names) > 20
    missing = [name for name in names if not exists(name)]
    assert not missing


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[count:]:
            if not hasattr(thing, attribute):
                return False
            thing = getattr(thing, attribute)
        return True
    return False


def test_links_of_the_readme_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in link]
    assert len(links) > 5
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with warnings as errors from a copy of the pages."""
    folder = tmp_path_factory.mktemp("site")
    for name in ("docs", "scripts"):
        shutil.copytree(ROOT / name, folder / name)
    (folder / "src").symlink_to(ROOT / "src")
    shutil.copy(ROOT / "mkdocs.yml", folder)
    for notebook in (folder / "docs/notebooks").glob("*.ipynb"):
        generated.render(notebook)
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


def test_site_builds_and_holds_every_page(site: Path) -> None:
    missing = [
        name_of(page) for page in PAGES[1:] if not (site / name_of(page)[len("docs/") :]).with_suffix(".html").exists()
    ]
    assert missing == []


def test_site_loads_nothing_from_another_host(site: Path) -> None:
    loads = re.compile(
        r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?(?:https?:)?//|<link\b[^>]*\bhref=["']?(?:https?:)?//|url\(["']?(?:https?:)?//"""
    )
    files = [path for path in site.rglob("*") if path.suffix in (".html", ".css")]
    assert len(files) > 20
    assert [path.name for path in files if loads.search(path.read_text(encoding="utf-8"))] == []


def test_page_of_records_names_every_entry_of_purify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "black_boxes.py").write_text(
        "import torch\n\ndef zeros(images):\n    return torch.zeros(len(images)).long()\n"
    )
    (tmp_path / "photos").mkdir()
    write_png(tmp_path / "photos/one.png", torch.rand(3, 32, 32))
    (tmp_path / "photos/two.txt").write_text("no picture")
    options = ["--classifier", "black_boxes:zeros", "--out", "out", "--profile", "fast", "--full-size"]
    done = CliRunner().invoke(app, ["purify", "photos", *options])
    assert done.exit_code == 0, done.output
    purified, left_out = map(json.loads, (tmp_path / "out/records.jsonl").open())
    page = generated.records().partition("## Evaluations")[0]
    assert set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\|(.*?)\|", page, re.MULTILINE)))) == {*purified, *left_out}
