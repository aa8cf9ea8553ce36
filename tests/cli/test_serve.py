"""The options of `orpheus-tts serve`, and the variables in their place."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from orpheus_plugin.cli.options import add_engine_arguments
from orpheus_plugin.cli.serve import add_arguments, read_environment, server_config
from orpheus_plugin.errors import InvalidOptions
from orpheus_plugin.server.config import Limits, ServerConfig
from orpheus_plugin.tokens.phrases import CacheOptions
from tests.support import scripts

ROOT = Path(__file__).parents[2]


def parsed(*arguments: str, **environment: str) -> ServerConfig:
    parser = argparse.ArgumentParser()
    add_engine_arguments(parser)
    add_arguments(parser)
    read_environment(parser, environment)
    return server_config(parser.parse_args(arguments))


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORPHEUS_API_KEY", raising=False)


def test_every_option_has_its_variable(tmp_path: Path) -> None:
    table = tmp_path / "names.txt"
    table.write_text("Nguyen = win\n")
    config = parsed(
        ORPHEUS_MODEL="mini",
        ORPHEUS_HOST="0.0.0.0",
        ORPHEUS_PORT="9000",
        ORPHEUS_MAX_TURNS="7",
        ORPHEUS_TURN_IDLE="3.5",
        ORPHEUS_ALLOW_ORIGIN="http://a.example, http://b.example",
        ORPHEUS_STRICT_VOICES="true",
        ORPHEUS_LOG_TEXT="0",
        ORPHEUS_LOG_LEVEL="debug",
        ORPHEUS_PRONUNCIATIONS=str(table),
        ORPHEUS_SPELL_NUMBERS="no",
        ORPHEUS_ADAPTER="alice=voices/alice, bob=someone/bob#robert",
    )
    assert (config.engine.model, config.host, config.port) == ("mini", "0.0.0.0", 9000)
    assert (config.engine.max_turns, config.engine.measure) == (7, False)
    assert config.limits == Limits(turn_idle_s=3.5)
    assert config.origins == ("http://a.example", "http://b.example")
    assert (config.engine.strict_voices, config.log_text, config.log_level) == (
        True,
        False,
        "debug",
    )
    assert config.engine.pronunciations == {"Nguyen": "win"}
    assert config.engine.spell_numbers is False
    assert config.engine.adapters == (("alice", "voices/alice"), ("bob", "someone/bob#robert"))


def test_the_table_of_options_and_the_example_are_the_parsers() -> None:
    script = scripts.load(ROOT / ".ci/options.py")
    for path, text in script.FILES.items():
        assert path.read_text("utf-8") == text(), "run: python .ci/options.py"
    # Every variable of the example is one that the server reads, or is named as another's.
    named = re.findall(r"^#(ORPHEUS_\w+)=", script.env_example(), re.MULTILINE)
    assert len(named) == len(set(named)) > 30
    assert parsed(**dict.fromkeys(named, "")) == parsed()


def test_an_option_wins_over_its_variable() -> None:
    assert parsed("--port", "1", ORPHEUS_PORT="2").port == 1
    assert parsed("--spell-numbers", ORPHEUS_SPELL_NUMBERS="0").engine.spell_numbers is True
    assert parsed().engine.spell_numbers is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "x"), ("LOG_LEVEL", "loud"), ("STRICT_VOICES", "maybe"), ("NICE", "99")],
)
def test_a_wrong_value_is_reported_with_its_variable(
    name: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parsed(**{f"ORPHEUS_{name}": value})
    assert f"ORPHEUS_{name}='{value}'" in capsys.readouterr().err


def test_the_key_comes_from_the_option_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "key"
    file.write_text("of-file\n")
    monkeypatch.setenv("ORPHEUS_API_KEY", "of-environment")
    assert parsed().api_key == "of-environment"
    assert parsed("--api-key-file", str(file)).api_key == "of-file"
    assert parsed("--api-key", "given", "--api-key-file", str(file)).api_key == "given"
    file.write_text("\n")
    for wrong in (file, tmp_path / "missing"):
        with pytest.raises(InvalidOptions, match="--api-key-file"):
            parsed("--api-key-file", str(wrong))


def test_any_option_of_the_phrase_cache_switches_it_on(tmp_path: Path) -> None:
    assert parsed().engine.cache is None
    lines = tmp_path / "lines.txt"
    lines.write_text("Hello.\n\n  Goodbye. \n")
    cache = parsed("--prime", str(lines), "--takes", "2").engine.cache
    assert cache == CacheOptions(takes=2, prime=("Hello.", "Goodbye."))
    cache = parsed("--cache", "8", ORPHEUS_CACHE_DIR=str(tmp_path)).engine.cache
    assert cache == CacheOptions(max_bytes=8 * 2**20, directory=tmp_path)
    with pytest.raises(InvalidOptions, match=r"--prime .*missing"):
        parsed("--prime", str(tmp_path / "missing"))
    with pytest.raises(InvalidOptions, match="takes"):
        parsed("--takes", "0")
