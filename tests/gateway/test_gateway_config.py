import re
from pathlib import Path

import pytest

from maskrestore.errors import ConfigError
from maskrestore.gateway.config import DecisionsConfig, read_config

EXAMPLE = """
restorer = "mae-tiny-32"

[models.signs]
classifier = "http://models:8000/v2/models/signs"
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]
scores = "upstream"
headers = { Authorization = "Bearer $TOKEN" }
settings = { "masks.rounds" = 4 }
on_doubt = "abstain"
doubt_limit = 0.8

[models.local]
classifier = "model.onnx"
on_failure = { upstream = "fail-open" }

[tenants.shop]
key_hash = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
rate = "600/minute"
queries_per_day = 100000
models = ["signs"]

[operator]
key_hash = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"

[decisions]
path = "decisions.sqlite"
pictures = "changed"
"""


def test_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(EXAMPLE)
    config = read_config(path)
    assert config.models["signs"].mean == (0.485, 0.456, 0.406)
    assert config.models["signs"].defense_config().masks.rounds == 4
    assert (config.models["signs"].on_doubt, config.models["signs"].doubt_limit) == ("abstain", 0.8)
    assert (config.models["local"].on_doubt, config.models["local"].doubt_limit) == ("answer", 0.5)
    assert config.models["local"].on_failure.upstream == "fail-open"
    assert config.models["local"].on_failure.deadline == "fail-closed"
    assert config.decisions.path == tmp_path / "decisions.sqlite"
    with pytest.raises(ValueError, match="frozen"):
        config.restorer = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("scores =", "score =", "models.signs.score: Extra inputs are not permitted"),
        ('"upstream"\nheaders', '"logits"\nheaders', "models.signs.scores: Input should be 'one-hot'"),
        ("masks.rounds", "masks.turns", "models.signs: unknown setting 'turns'"),
        ('"abstain"', '"ask"', "models.signs.on_doubt: Input should be 'answer', 'original' or 'abstain'"),
        ('"abstain"', '"original"\nmax_queries = 1', "models.signs: the only query is spent"),
        ("0.8", "8", "models.signs.doubt_limit: Input should be less than or equal to 1"),
        ('models = ["signs"]', 'models = ["other"]', "may use other, which is no model"),
        ("aaaa", "", "tenants.shop.key_hash: String should match pattern"),
        ("[operator]", "[operator.x]", "operator.key_hash: Field required"),
        ("[models.signs]", "[models.'a/b']", "String should match pattern"),
        ("[models.local]", "[models.local", "is no TOML file"),
        ("600/minute", "600", "expected pictures in a time"),
        ("[decisions]", "[decisions]\nurl = 'postgresql://h/d'", "decisions: decisions are kept in one place"),
    ],
)
def test_mistakes_are_named_with_their_place(tmp_path: Path, old: str, new: str, words: str) -> None:
    from maskrestore.gateway.access import Access
    from maskrestore.gateway.ledger import BudgetsInMemory, Ledger

    path = tmp_path / "gateway.toml"
    assert old in EXAMPLE
    path.write_text(EXAMPLE.replace(old, new, 1))
    with pytest.raises(ConfigError, match=words.replace("(", r"\(")):
        Access(read_config(path), Ledger(BudgetsInMemory({})))


def test_a_file_that_is_missing_or_empty(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        read_config(tmp_path / "none.toml")
    (tmp_path / "empty.toml").touch()
    with pytest.raises(ConfigError, match="models: Field required"):
        read_config(tmp_path / "empty.toml")


def test_the_example_of_the_guide_is_valid(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/guides/gateway.md").read_text()
    (block,) = re.findall(r"^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    for letter in "ab":
        block = block.replace('"..."', f'"{letter * 64}"', 1)
    path = tmp_path / "gateway.toml"
    path.write_text(block)
    config = read_config(path)
    assert set(config.models) == {"signs", "parts"}
    assert config.tenants["shop"].queries_per_day == 100_000


def test_the_password_of_a_database_is_not_shown() -> None:
    config = DecisionsConfig(url="postgresql://me:secret@host/name")  # type: ignore[arg-type]
    assert "secret" not in f"{config!r} {config} {config.model_dump_json()}"
