"""What surrounds the code agrees with it: version, extras, commands of the workflows, imports without extras."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import maskrestore

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
OPTIONAL = {
    **dict.fromkeys(("matplotlib", "diffusers", "transformers", "efficientnet_lite_pytorch"), "lab"),
    **dict.fromkeys(("onnxruntime", "onnx"), "onnx"),
    **dict.fromkeys(("skimage", "yaml"), "test"),
    **dict.fromkeys(("pyarrow", "fsspec"), "sources"),
    "huggingface_hub": "hub",
    "pillow_heif": "heic",
    **dict.fromkeys(("httpx", "jmespath"), "http"),
    "fastapi": "gateway",
    "psycopg": "postgres",
    "ray": "ray",
}
"""Packages that a bare install lacks, by the extra that brings them."""


def extra(name: str) -> set[str]:
    """The packages of an extra, those of the extras that it includes among them."""
    found: set[str] = set()
    for line in PROJECT["optional-dependencies"][name]:
        package, included = re.fullmatch(r"([\w.-]+)(?:\[(.*?)\])?.*", line).groups()  # type: ignore[union-attr]
        if package == PROJECT["name"]:
            found.update(*(extra(one) for one in included.split(",")))
        else:
            found.add(package.replace("-", "_"))
    return found


def test_every_file_that_names_the_version_names_the_same() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    released = re.findall(r"^## \[(\d.*?)\] - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert citation["version"] == released[0] == maskrestore.__version__


def test_errors_about_missing_packages_name_an_extra_that_brings_them() -> None:
    named = {}
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "MissingDependencyError":
                package, name = (ast.literal_eval(argument) for argument in node.args)
                named[path.name, package] = name
                assert package in extra(name), path
    assert {package for _, package in named} == {name for name, where in OPTIONAL.items() if where != "test"}
    # The product never asks for the laboratory's extra.
    assert named["hugging_face.py", "huggingface_hub"] == "hub"


def test_help_needs_no_optional_package() -> None:
    code = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {sorted(OPTIONAL)!r}:
            raise ModuleNotFoundError(f"{{name}} is imported", name=name)

sys.meta_path.insert(0, Absent())
from maskrestore.cli.app import app

for command in ([], ["demo"], ["purify"], ["serve"], ["inspect"], ["cost"], ["pretrain"], ["reproduce"]):
    app([*command, "--help"], standalone_mode=False)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage: ") == 8


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_run_targets_of_the_makefile_only(path: Path) -> None:
    """What a workflow does, ``make`` does anywhere."""
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    jobs = yaml.safe_load(path.read_text())["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert len(commands) == len(jobs)
    for command in commands:
        found = re.fullmatch(r"make (\w+)( [A-Z]+=\S*)*", command.replace("${{ matrix.python }}", ""))
        assert found, command
        assert found[1] in targets, command


def test_the_versions_of_python_are_those_that_are_tested() -> None:
    stated = {text.rpartition(" ")[2] for text in PROJECT["classifiers"] if "Python :: 3." in text}
    tests = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["test"]
    assert set(tests["strategy"]["matrix"]["python"]) == stated
    assert PROJECT["requires-python"] == f">={min(stated, key=lambda text: int(text[2:]))}"


def test_the_hooks_are_tools_of_the_environment() -> None:
    pytest.importorskip("pre_commit")
    config = ROOT / ".pre-commit-config.yaml"
    subprocess.run([sys.executable, "-m", "pre_commit", "validate-config", str(config)], check=True)
    (repository,) = yaml.safe_load(config.read_text())["repos"]
    for hook in repository["hooks"]:
        program = Path(hook["entry"].split()[0])
        assert program.parent == Path(".venv/bin")
        assert (Path(sys.executable).parent / program.name).exists(), program
