import re
import subprocess
import sys

import pytest

from maskrestore import __version__

OPTIONS = {
    "demo": ["--out", "--images", "--profile"],
    "purify": [
        *("--classifier", "--mean", "--std", "--out", "--profile", "--restorer", "--key-file"),
        *("--max-queries", "--budget", "--set", "MASKRESTORE_KEY", "records.jsonl"),
    ],
    "cost": ["--images", "--restorer", "--profile", "--cores", "--price-per-query", "--figures", "cost_figures"],
    "reproduce": ["--scale", "--jobs", "--ray", "--data"],
    "evaluate": ["--dataset", "--attack", "--defense", "--set", "--out", "--data", "MASKRESTORE_DATA"],
    "train-victim": ["--dataset", "--attack", "--set", "--cache", "MASKRESTORE_CACHE"],
    "pretrain": ["--family", "--steps", "--out", "--set", "weights.safetensors"],
    "table": ["--out"],
}


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@pytest.mark.parametrize("command", OPTIONS)
def test_help_is_complete(invoke, command):
    result = invoke(command, "--help")
    assert result.exit_code == 0
    text = plain(result.stdout)
    for option in OPTIONS[command]:
        assert option in text
    if command != "demo":
        assert f"maskrestore {command} " in text  # an example
    # Every option says what it does.
    for line in text.splitlines():
        if re.match(r"│ [* ]? {0,4}--", line):
            assert len(re.split(r"\s{2,}", line.strip("│ "))) >= 2, line


def test_the_program_lists_its_commands(invoke):
    result = invoke("--help")
    assert result.exit_code == 0
    for command in OPTIONS:
        assert re.search(rf"│ {command}\s+[A-Z]", plain(result.stdout)), command


def test_version_and_usage(invoke):
    assert invoke("--version").stdout.strip() == f"maskrestore {__version__}"
    assert invoke("purify").exit_code == 2
    assert invoke("nonsense").exit_code == 2
    assert invoke("demo", "--nonsense").exit_code == 2


def test_help_needs_no_optional_dependency():
    code = (
        "import sys\n"
        "for name in ('onnxruntime', 'pyarrow', 'matplotlib', 'huggingface_hub', 'transformers'):\n"
        "    sys.modules[name] = None\n"
        "from maskrestore.cli.app import app\n"
        "app(['--help'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
