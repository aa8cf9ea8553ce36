"""Which engine an adapter gets: one set of rules, in both adapters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from orpheus_plugin import livekit, pipecat
from orpheus_plugin.engine import local
from orpheus_plugin.engine.config import EngineConfig
from orpheus_plugin.errors import InvalidOptions
from orpheus_plugin.remote.engine import RemoteEngine
from orpheus_plugin.remote.resolve import IN_PROCESS, LOCAL, release, resolve
from orpheus_plugin.speech_engine import SpeechEngine
from tests.livekit.tones import ToneEngine

ADDRESS = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch) -> dict[EngineConfig, ToneEngine]:
    """Engines of this process speak in tones here; no other of the environment's variables is
    set."""
    made: dict[EngineConfig, ToneEngine] = {}
    monkeypatch.setattr(
        local, "shared_engine", lambda config: made.setdefault(config, ToneEngine())
    )
    monkeypatch.delenv("ORPHEUS_URL", raising=False)
    monkeypatch.delenv("ORPHEUS_API_KEY", raising=False)
    return made


def of_livekit(**arguments: Any) -> SpeechEngine:
    return livekit.OrpheusTTS(**arguments).engine


def of_pipecat(**arguments: Any) -> SpeechEngine:
    return pipecat.OrpheusTTS(**arguments).engine


both = pytest.mark.parametrize("engine_of", [of_livekit, of_pipecat], ids=["livekit", "pipecat"])
EngineOf = Callable[..., SpeechEngine]


@both
def test_a_given_engine_is_used_whatever_the_environment_says(
    engine_of: EngineOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORPHEUS_URL", ADDRESS)
    engine = ToneEngine()
    assert engine_of(engine=engine) is engine
    for other in ({"url": ADDRESS}, {"model": "mini"}, {"device": "cpu"}):
        with pytest.raises(InvalidOptions, match="engine= alone"):
            engine_of(engine=engine, **other)


@both
def test_an_address_excludes_model_and_device(engine_of: EngineOf) -> None:
    engine = engine_of(url=ADDRESS)
    assert isinstance(engine, RemoteEngine)
    assert engine_of(url=ADDRESS) is engine
    assert engine_of(url=ADDRESS, api_key="another") is not engine
    assert engine_of(url=ADDRESS, model="auto") is engine
    for other in ({"model": "mini"}, {"device": "cpu"}):
        with pytest.raises(InvalidOptions, match="url= alone"):
            engine_of(url=ADDRESS, **other)
    with pytest.raises(ValueError, match="address"):
        engine_of(url="ftp://nowhere")


@both
def test_local_and_in_process_are_accepted_as_urls(
    engine_of: EngineOf, in_process: dict[EngineConfig, ToneEngine]
) -> None:
    here = engine_of(url="in-process", model="mini", device="cpu")
    assert in_process == {EngineConfig(model="mini", device="cpu"): here}
    server = engine_of(url="local")
    assert isinstance(server, RemoteEngine)
    assert engine_of(url="local") is server
    assert engine_of(url="local", model="mini") is not server
    assert engine_of(url="local", device="cpu") is not server


@both
def test_the_environment_takes_the_same_values(
    engine_of: EngineOf,
    monkeypatch: pytest.MonkeyPatch,
    in_process: dict[EngineConfig, ToneEngine],
) -> None:
    for value in (ADDRESS, "local", "in-process"):
        monkeypatch.setenv("ORPHEUS_URL", value)
        assert engine_of() is engine_of(url=value)
    monkeypatch.setenv("ORPHEUS_URL", ADDRESS)
    monkeypatch.setenv("ORPHEUS_API_KEY", "open sesame")
    assert engine_of() is engine_of(url=ADDRESS, api_key="open sesame")
    assert engine_of(url="http://127.0.0.1:8") is not engine_of()


@both
def test_arguments_win_over_the_environment_and_a_log_line_says_so(
    engine_of: EngineOf, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain = engine_of(model="mini")
    monkeypatch.setenv("ORPHEUS_URL", ADDRESS)
    assert engine_of(model="mini") is plain
    assert "ORPHEUS_URL is not used" in caplog.text


def test_the_adapters_differ_only_in_their_default() -> None:
    assert of_livekit() is resolve(default=LOCAL)
    assert of_pipecat() is resolve(default=IN_PROCESS)
    assert of_livekit() is of_pipecat(url="local")
    assert of_pipecat() is of_livekit(url="in-process")


async def test_the_last_user_closes_a_connection_and_the_next_one_opens_another() -> None:
    url = "http://127.0.0.1:7"
    first, second = resolve(url=url), resolve(url=url)
    assert isinstance(first, RemoteEngine)
    await release(first)
    assert not first.closed
    await release(second)
    assert first.closed
    third = resolve(url=url)
    assert third is not first
    await release(third)


async def test_releasing_does_not_close_a_given_engine_or_one_of_this_process() -> None:
    given = ToneEngine()
    for engine in (resolve(given), resolve(url="in-process")):
        await release(engine)
        assert isinstance(engine, ToneEngine)
        assert not engine.closed
