"""Prepare a release: version, changelog, source distribution and wheel, commit, tag.

::

    python scripts/release.py 0.2.0 --dry-run    # says what it would do, and changes nothing
    python scripts/release.py 0.2.0

The tree must be clean, and the section Unreleased of CHANGELOG.md must say what is new. Nothing is pushed or uploaded.
"""

from __future__ import annotations

import argparse
import datetime
import difflib
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERSION_FILE = "src/maskrestore/__init__.py"
CITATION = "CITATION.cff"
CHANGELOG = "CHANGELOG.md"
_UNRELEASED = "## [Unreleased]\n"


class ReleaseError(Exception):
    """The release cannot be made; the message says why and what to do."""


def current_version(source: str) -> str:
    """The version that ``__init__.py`` states. Raises ReleaseError."""
    found = re.search(r'^__version__ = "([^"]+)"$', source, re.MULTILINE)
    if found is None:
        raise ReleaseError(f'{VERSION_FILE} has no line `__version__ = "..."`')
    return found[1]


def check_version(current: str, new: str) -> None:
    """Raise ReleaseError unless ``new`` is three numbers and comes after ``current``."""
    if not re.fullmatch(r"\d+\.\d+\.\d+", new):
        raise ReleaseError(f"the version is {new!r}; expected three numbers, such as 0.2.0")
    if _numbers(new) <= _numbers(current):
        raise ReleaseError(f"the version is {current} now; {new} does not come after it")


def with_release(changelog: str, version: str, date: datetime.date) -> str:
    """Move what is unreleased into a section of its own, and leave an empty one. Raises ReleaseError."""
    before, heading, after = changelog.partition(_UNRELEASED)
    if not heading:
        raise ReleaseError(f"{CHANGELOG} has no line `{_UNRELEASED.strip()}`")
    unreleased = after.partition("\n## ")[0].strip()
    if not unreleased:
        raise ReleaseError(f"{CHANGELOG} has nothing under Unreleased; say what is new first")
    return f"{before}{heading}\n## [{version}] - {date.isoformat()}\n{after}"


def changes(root: Path, version: str, date: datetime.date) -> dict[str, str]:
    """The files that a release changes, with their new text. Raises ReleaseError."""
    texts = {name: (root / name).read_text() for name in (VERSION_FILE, CITATION, CHANGELOG)}
    current = current_version(texts[VERSION_FILE])
    check_version(current, version)
    return {
        VERSION_FILE: texts[VERSION_FILE].replace(f'__version__ = "{current}"', f'__version__ = "{version}"'),
        CITATION: re.sub(r"^version: .*$", f"version: {version}", texts[CITATION], flags=re.MULTILINE),
        CHANGELOG: with_release(texts[CHANGELOG], version, date),
    }


def release(root: Path, version: str, date: datetime.date, *, dry_run: bool, build: Callable[[Path], None]) -> None:
    """Make the release in ``root``. Raises ReleaseError before anything is changed."""
    dirty = _git(root, "status", "--porcelain")
    if dirty:
        raise ReleaseError(f"the tree is not clean; commit these first:\n{dirty}")
    tag = f"v{version}"
    if _git(root, "tag", "--list", tag):
        raise ReleaseError(f"the tag {tag} exists already")
    new_texts = changes(root, version, date)
    if dry_run:
        for name, text in new_texts.items():
            old = (root / name).read_text()
            sys.stdout.writelines(
                difflib.unified_diff(old.splitlines(True), text.splitlines(True), f"a/{name}", f"b/{name}", n=1)
            )
        print(f"\nwould build the source distribution and the wheel, commit, and tag {tag}; nothing was changed")
        return
    old_texts = {name: (root / name).read_text() for name in new_texts}
    for name, text in new_texts.items():
        (root / name).write_text(text)
    try:
        build(root)
    except BaseException:
        for name, text in old_texts.items():
            (root / name).write_text(text)
        raise
    _git(root, "add", "--", *new_texts)
    _git(root, "commit", "--quiet", "--message", f"Release {version}")
    _git(root, "tag", "--annotate", tag, "--message", f"maskrestore {version}")
    print(f"built dist/, committed and tagged {tag}. To publish: push the branch and the tag, upload dist/")


def build_distributions(root: Path) -> None:
    """Build the source distribution and the wheel into an empty ``dist``, and try the wheel."""
    subprocess.run(["make", "wheel"], cwd=root, check=True)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in version.split("."))


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def main(arguments: list[str] | None = None) -> int:
    """Run the script; returns its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("version", help="three numbers, e.g. 0.2.0")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and change nothing")
    options = parser.parse_args(arguments)
    today = datetime.datetime.now(datetime.UTC).date()
    try:
        release(ROOT, options.version, today, dry_run=options.dry_run, build=build_distributions)
    except ReleaseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
