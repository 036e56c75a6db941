"""Who may import whom, as ``docs/development/architecture.md`` draws it; lazy and type-checking imports count too."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "maskrestore"

ROOT = "maskrestore"
BASE = {"types", "errors", "statistics", "runtime", "imaging"}
METHOD = {*BASE, "mae", "classifiers", "defense"}
PRODUCT = {*METHOD, "jobs", "reporting", "gateway", "distributed"}
LAB = {"lab.attacks", "lab.data", "lab.victims", "lab.baselines", "lab.measure", "lab.paper", "lab.runner", "lab.show"}
ALLOWED: dict[str, set[str]] = {
    **dict.fromkeys(BASE, BASE),
    "mae": BASE,
    "classifiers": BASE,
    "defense": {*BASE, "mae", "classifiers"},
    "jobs": {*METHOD, "reporting"},
    "reporting": METHOD,
    "gateway": {*METHOD, "jobs", "reporting"},
    "distributed": {*METHOD, "jobs", "reporting", "gateway"},
    ROOT: {*PRODUCT},
    "lab": set(),
    "lab.data": METHOD,
    "lab.attacks": {*METHOD, "lab.data"},
    "lab.victims": {*METHOD, "lab.data", "lab.attacks"},
    "lab.baselines": {*METHOD, "lab.data", "lab.attacks"},
    "lab.measure": {*PRODUCT, "lab.data", "lab.attacks", "lab.victims", "lab.baselines"},
    "lab.paper": {*PRODUCT, "lab.data", "lab.attacks", "lab.victims", "lab.baselines", "lab.measure"},
    "lab.runner": {*PRODUCT, *LAB} - {"lab.show"},
    "lab.show": {*PRODUCT, *LAB},
    "cli": {*PRODUCT, *LAB, "lab", ROOT},
    "__main__": {"cli"},
}
"""Part -> parts that it may import besides itself; ``maskrestore`` is the package's own ``__init__``. The laboratory is
split into its packages. Product code never imports it."""


def forbidden_imports(source: Path) -> list[str]:
    """All imports that ``ALLOWED`` does not permit, as ``file:line: importer -> imported``."""
    found = []
    parts = parts_below(source)
    for path in sorted(source.rglob("*.py")):
        place = path.relative_to(source)
        importer = ROOT if place == Path("__init__.py") else part_of(f"{ROOT}.{module_name(place)}", parts)
        if importer not in ALLOWED:
            found.append(f"{place}: {importer} is not in the table of this test; decide what it may import")
            continue
        for line, name in imported_modules(ast.parse(path.read_text()), place):
            imported = part_of(name, parts)
            if imported is not None and imported not in {importer, *ALLOWED[importer]}:
                found.append(f"{place}:{line}: {importer} -> {imported}")
    return found


def parts_below(source: Path) -> set[str]:
    """Names of the parts of a package: its modules and packages, and those of the laboratory one level further down."""
    folders = {"": source, "lab.": source / "lab"}
    return {
        prefix + path.stem
        for prefix, folder in folders.items()
        if folder.is_dir()
        for path in folder.iterdir()
        if path.name not in ("__init__.py", "__pycache__") and (path.is_dir() or path.suffix == ".py")
    }


def module_name(place: Path) -> str:
    """``defense/bdmae.py`` -> ``defense.bdmae``; a package's own name for its ``__init__``."""
    return ".".join(place.with_suffix("").parts).removesuffix(".__init__")


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
    for length in (2, 1):
        if ".".join(rest[:length]) in parts and len(rest) >= length:
            return ".".join(rest[:length])
    return ROOT


def test_imports_point_downwards() -> None:
    assert forbidden_imports(SOURCE) == []


def test_the_product_knows_nothing_of_the_laboratory() -> None:
    assert not any(ALLOWED[part] & {*LAB, "lab", "cli"} for part in ALLOWED if part in {*PRODUCT, ROOT})


def test_the_table_has_no_cycles() -> None:
    remaining = {part: allowed - {part} - (BASE if part in BASE else set()) for part, allowed in ALLOWED.items()}
    while remaining:
        free = {part for part, allowed in remaining.items() if not allowed & remaining.keys()}
        assert free, f"these import each other: {sorted(remaining)}"
        remaining = {part: allowed for part, allowed in remaining.items() if part not in free}


FORBIDDEN = [
    "import maskrestore.lab.attacks.badnets",
    "import torch, maskrestore.lab.attacks as a",
    "from maskrestore.lab.attacks import badnets",
    "from maskrestore.lab import attacks",
    "from ..lab.attacks import badnets",
    "from ..lab import attacks",
    "from ..lab.attacks.badnets import apply as imaging",
    "def lazy():\n    from maskrestore.lab.attacks import badnets",
    "class A:\n    def lazy(self):\n        if True:\n            import maskrestore.lab.attacks",
    "try:\n    import maskrestore.lab.attacks\nexcept ImportError:\n    pass",
    "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from maskrestore.lab.attacks import badnets",
    "import importlib\nimportlib.import_module('maskrestore.lab.attacks')",
    "__import__('maskrestore.lab.attacks')",
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
    "x = 'import maskrestore.lab.attacks'",
]


def tree(folder: Path, code: str, importer: str = "defense/bdmae.py") -> Path:
    for part in ("lab", "lab/attacks", "imaging", "classifiers", "defense"):
        (folder / part).mkdir()
        (folder / part / "__init__.py").touch()
    (folder / "__init__.py").write_text("from maskrestore.imaging import resize\n")
    (folder / importer).parent.mkdir(exist_ok=True)
    (folder / importer).write_text(code)
    return folder


@pytest.mark.parametrize("code", FORBIDDEN)
def test_every_way_to_import_upwards_is_found(code: str, tmp_path: Path) -> None:
    (found,) = forbidden_imports(tree(tmp_path, code))
    assert found.startswith("defense/bdmae.py:")
    assert found.endswith("defense -> lab.attacks")


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
