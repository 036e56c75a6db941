"""Who may import whom, as ``docs/architecture.md`` draws it; lazy imports and imports for types count too."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "maskrestore"

ROOT = "maskrestore"
BASE = {"imaging", "types", "errors", "precision", "threads", "openmp", "devices"}
METHOD = {*BASE, "mae", "classifiers", "defense", "baselines"}
LAB = {"attacks", "data", "victims"}
ALLOWED: dict[str, set[str]] = {
    **dict.fromkeys(BASE, BASE),
    "mae": BASE,
    "classifiers": BASE,
    "defense": {*BASE, "mae", "classifiers"},
    "baselines": {*BASE, "mae", "classifiers", "defense"},
    "reporting": BASE,
    "data": BASE,
    "attacks": {*BASE, "data"},
    "victims": {*BASE, "data", "attacks"},
    "evaluation": {*METHOD, *LAB, "reporting"},
    "distributed": {*METHOD, *LAB, "reporting", "evaluation"},
    "cli": {*METHOD, *LAB, "reporting", "evaluation", "distributed", ROOT},
    "gateway": {*METHOD, *LAB, "reporting", "evaluation", "distributed", ROOT},
    ROOT: {*METHOD, *LAB, "reporting", "evaluation", "distributed"},
    "__main__": {"cli"},
}
"""Part -> parts that it may import besides itself. ``maskrestore`` is the package's own ``__init__``."""


def forbidden_imports(source: Path) -> list[str]:
    """All imports that ``ALLOWED`` does not permit, as ``file:line: importer -> imported``."""
    found = []
    parts = {path.stem for path in source.iterdir() if path.is_dir() or path.suffix == ".py"}
    for path in sorted(source.rglob("*.py")):
        place = path.relative_to(source)
        importer = ROOT if place == Path("__init__.py") else place.parts[0].removesuffix(".py")
        if importer not in ALLOWED:
            found.append(f"{place}: {importer} is not in the table of this test; decide what it may import")
            continue
        for line, name in imported_modules(ast.parse(path.read_text()), place):
            imported = part_of(name, parts)
            if imported is not None and imported not in {importer, *ALLOWED[importer]}:
                found.append(f"{place}:{line}: {importer} -> {imported}")
    return found


def imported_modules(tree: ast.AST, place: Path) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything that a module imports, at any depth and by any means."""
    package = (ROOT, *place.parts[:-1])
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            stem = ".".join((*base, *filter(None, [node.module])))
            yield from ((node.lineno, f"{stem}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if function in ("import_module", "__import__"):
                yield node.lineno, str(node.args[0].value)


def part_of(name: str, parts: set[str]) -> str | None:
    """The part of maskrestore that a dotted name belongs to; None for other packages."""
    root, *rest = name.split(".")
    if root != ROOT:
        return None
    return rest[0] if rest and rest[0] in parts else ROOT


def test_imports_point_downwards() -> None:
    assert forbidden_imports(SOURCE) == []


def test_the_method_knows_nothing_of_the_lab() -> None:
    assert not ALLOWED["defense"] & LAB


def test_the_table_has_no_cycles() -> None:
    remaining = {part: allowed - {part} - (BASE if part in BASE else set()) for part, allowed in ALLOWED.items()}
    while remaining:
        free = {part for part, allowed in remaining.items() if not allowed & remaining.keys()}
        assert free, f"these import each other: {sorted(remaining)}"
        remaining = {part: allowed for part, allowed in remaining.items() if part not in free}


FORBIDDEN = [
    "import maskrestore.attacks.badnets",
    "import torch, maskrestore.attacks as a",
    "from maskrestore.attacks import badnets",
    "from maskrestore import attacks",
    "from ..attacks import badnets",
    "from .. import attacks",
    "from ..attacks.badnets import apply as imaging",
    "def lazy():\n    from maskrestore.attacks import badnets",
    "class A:\n    def lazy(self):\n        if True:\n            import maskrestore.attacks",
    "try:\n    import maskrestore.attacks\nexcept ImportError:\n    pass",
    "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from maskrestore.attacks import badnets",
    "import importlib\nimportlib.import_module('maskrestore.attacks')",
    "__import__('maskrestore.attacks')",
]
PERMITTED = [
    "from maskrestore.defense.config import X",
    "from . import config",
    "from .config import attacks",
    "from ..imaging import attacks",
    "from maskrestore.classifiers import load_classifier",
    "import attacks",
    "from other.attacks import badnets",
    "import maskrestore_attacks",
    "x = 'import maskrestore.attacks'",
]


def tree(folder: Path, code: str, importer: str = "defense/bdmae.py") -> Path:
    for part in ("attacks", "imaging", "classifiers", "defense"):
        (folder / part).mkdir()
        (folder / part / "__init__.py").touch()
    (folder / "__init__.py").write_text("from maskrestore.attacks import badnets\n")
    (folder / importer).parent.mkdir(exist_ok=True)
    (folder / importer).write_text(code)
    return folder


@pytest.mark.parametrize("code", FORBIDDEN)
def test_every_way_to_import_upwards_is_found(code: str, tmp_path: Path) -> None:
    (found,) = forbidden_imports(tree(tmp_path, code))
    assert found.startswith("defense/bdmae.py:")
    assert found.endswith("defense -> attacks")


@pytest.mark.parametrize("code", PERMITTED)
def test_permitted_imports_are_not_reported(code: str, tmp_path: Path) -> None:
    assert forbidden_imports(tree(tmp_path, code)) == []


def test_the_root_and_unknown_parts_are_reported(tmp_path: Path) -> None:
    found = forbidden_imports(tree(tmp_path, "import maskrestore\nfrom maskrestore import BDMAE", "imaging/deep/x.py"))
    assert found == [
        "imaging/deep/x.py:1: imaging -> maskrestore",
        "imaging/deep/x.py:2: imaging -> maskrestore",
    ]
    (tmp_path / "utils.py").touch()
    assert "utils is not in the table" in forbidden_imports(tmp_path)[-1]
