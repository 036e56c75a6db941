"""The script that makes a release: what it refuses, what a dry run shows, what a release changes."""

import datetime
import shutil
import subprocess
from pathlib import Path

import pytest

from scripts import release as script

ROOT = Path(__file__).parents[2]
FILES = (script.VERSION_FILE, script.CITATION, script.CHANGELOG)
DATE = datetime.date(2030, 2, 3)
NEXT = "99.0.0"


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=n", "-c", "user.email=e@example.org", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with this project's own files that name the version, and something unreleased."""
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    changelog = tmp_path / script.CHANGELOG
    before, heading, after = changelog.read_text().partition("## [Unreleased]\n")
    changelog.write_text(f"{before}{heading}\n- Something new.\n{after}")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "start")
    for variable, value in (("NAME", "n"), ("EMAIL", "e@example.org")):
        monkeypatch.setenv(f"GIT_AUTHOR_{variable}", value)
        monkeypatch.setenv(f"GIT_COMMITTER_{variable}", value)
    return tmp_path


def never(_: Path) -> None:
    raise AssertionError("nothing is to be built")


def test_a_dry_run_shows_the_changes_and_makes_none(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {name: (checkout / name).read_text() for name in FILES}
    script.release(checkout, NEXT, DATE, dry_run=True, build=never)
    shown = capsys.readouterr().out
    assert f'+__version__ = "{NEXT}"' in shown
    assert f"+version: {NEXT}" in shown
    assert f"+## [{NEXT}] - 2030-02-03" in shown
    assert f"tag v{NEXT}; nothing was changed" in shown
    assert {name: (checkout / name).read_text() for name in FILES} == before
    assert git(checkout, "status", "--porcelain") == git(checkout, "tag") == ""


def test_a_release_is_built_committed_and_tagged(checkout: Path) -> None:
    built = []

    def build(root: Path) -> None:  # from the new version, before it is tagged
        built.append(script.current_version((root / script.VERSION_FILE).read_text()))

    script.release(checkout, NEXT, DATE, dry_run=False, build=build)
    assert built == [NEXT]
    assert git(checkout, "tag") == f"v{NEXT}"
    assert git(checkout, "log", "-1", "--format=%s", f"v{NEXT}") == f"Release {NEXT}"
    assert git(checkout, "status", "--porcelain") == ""
    changelog = (checkout / script.CHANGELOG).read_text()
    assert f"## [Unreleased]\n\n## [{NEXT}] - 2030-02-03\n\n- Something new.\n" in changelog
    with pytest.raises(script.ReleaseError, match="nothing under Unreleased"):
        script.changes(checkout, "99.1.0", DATE)


def test_it_refuses_before_it_changes_anything(checkout: Path) -> None:
    def refused(version: str, reason: str) -> None:
        before = git(checkout, "status", "--porcelain")
        with pytest.raises(script.ReleaseError, match=reason):
            script.release(checkout, version, DATE, dry_run=False, build=never)
        assert git(checkout, "status", "--porcelain") == before

    refused("next", "three numbers")
    refused("0.0.1", "does not come after")
    git(checkout, "tag", f"v{NEXT}")
    refused(NEXT, "exists already")
    (checkout / script.CITATION).write_text("changed\n")
    refused("99.0.1", "not clean")


def test_the_command_line_reports_a_refusal(capsys: pytest.CaptureFixture[str], monkeypatch, tmp_path) -> None:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "new").touch()
    monkeypatch.setattr(script, "ROOT", tmp_path)
    assert script.main([NEXT, "--dry-run"]) == 1
    assert "error: the tree is not clean" in capsys.readouterr().err
