"""Loading, start and end of the service."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
import warnings

import pytest
from pipecat.frames.frames import EndFrame, TTSSpeakFrame, TTSUpdateSettingsFrame
from pipecat.tests.utils import SleepFrame

from orpheus_plugin.engine import local
from orpheus_plugin.errors import EngineDied
from orpheus_plugin.pipecat import OrpheusTTS, service
from tests.pipecat.conversations import THREE, kinds, reply, run, text
from tests.pipecat.tones import ToneEngine


def test_importing_the_service_loads_no_torch_and_gives_no_warning() -> None:
    code = (
        "import sys, warnings\n"
        "import pipecat.services.tts_service\n"
        "warnings.simplefilter('error')\n"
        "import orpheus_plugin.pipecat\n"
        "print(sorted({'torch', 'vllm', 'snac', 'transformers'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


async def test_a_conversation_uses_nothing_deprecated() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        delta = OrpheusTTS.Settings(voice="leo")
        await run(
            OrpheusTTS(engine=ToneEngine(), settings=OrpheusTTS.Settings(temperature=0.5)),
            [*reply(THREE), TTSUpdateSettingsFrame(delta=delta), TTSSpeakFrame("Bye.")],
        )
    assert [str(w.message) for w in caught if issubclass(w.category, DeprecationWarning)] == []


async def test_warming_loads_the_engine_that_all_services_of_the_process_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: dict[object, ToneEngine] = {}
    monkeypatch.delenv("ORPHEUS_URL", raising=False)
    monkeypatch.setattr(
        local, "shared_engine", lambda config: made.setdefault(config, ToneEngine())
    )
    engine = await OrpheusTTS.warm()
    first, second = OrpheusTTS(), OrpheusTTS()
    assert engine is first.engine is second.engine
    assert len(made) == 1
    assert next(iter(made.values())).starts == 1
    assert OrpheusTTS(model="another").engine is not engine


async def test_an_engine_that_still_loads_is_reported_and_used_when_it_is_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Pipecat abandons a pipeline that is not set up in 20 s; this one starts, and says what to
    do."""
    monkeypatch.setattr(service, "READY_TIMEOUT_S", 0.1)
    tts = OrpheusTTS(engine=ToneEngine(start_s=0.4))
    down, errors = await run(
        tts, [TTSSpeakFrame("Too early."), SleepFrame(sleep=0.6), TTSSpeakFrame("Now.")]
    )
    assert "OrpheusTTS.warm()" in errors[0].error
    assert isinstance(errors[0].exception, EngineDied)
    assert tts.is_usable
    assert text(down) == "Now."


async def test_an_engine_that_fails_while_it_loads_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Broken(ToneEngine):
        async def start(self) -> None:
            await super().start()
            raise RuntimeError("out of memory")

    monkeypatch.setattr(service, "READY_TIMEOUT_S", 0.1)
    tts = OrpheusTTS(engine=Broken(start_s=0.3))
    _, errors = await run(tts, [SleepFrame(sleep=0.6)])
    assert not tts.is_usable
    assert "out of memory" in errors[-1].error


async def test_the_end_of_a_call_waits_for_the_end_of_the_speech() -> None:
    engine = ToneEngine(speed=10)
    down, errors = await run(OrpheusTTS(engine=engine), [TTSSpeakFrame("Good bye then.")])
    assert text(down) == "Good bye then."
    assert not errors


async def test_a_call_that_ends_during_a_reply_does_not_hang() -> None:
    engine = ToneEngine(speed=10)
    began = time.monotonic()
    down, _ = await run(
        OrpheusTTS(engine=engine),
        [*reply(THREE)[:-1], SleepFrame(sleep=0.1), EndFrame()],
        end=False,
    )
    assert time.monotonic() - began < 2
    assert kinds(down).count("TTSStoppedFrame") == 1
    assert not engine.turns


async def test_a_given_engine_stays_running() -> None:
    engine = ToneEngine()
    await run(OrpheusTTS(engine=engine), reply(THREE))
    assert not engine.closed


async def test_two_services_speak_with_one_engine_at_once() -> None:
    engine = ToneEngine(speed=10)
    results = await asyncio.gather(
        *(run(OrpheusTTS(engine=engine), reply(THREE)) for _ in range(3))
    )
    assert [text(down) for down, _ in results] == [THREE] * 3
    assert engine.most_live > 2
