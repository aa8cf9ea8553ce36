"""Voice and sampling, changed while the agent talks.

    python agent_examples/update_settings.py                    then open http://localhost:7860
    python agent_examples/update_settings.py --out tour.wav

The agent reads a text. Between its sentences a TTSUpdateSettingsFrame changes the voice or how it
is sampled; each change applies from the next sentence on; the current sentence is not changed.

    pip install "orpheus_plugin[local,pipecat,examples]"
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from ctrl_c import run_to_end
from offline_page import serve_offline
from pipecat.frames.frames import (
    EndFrame,
    Frame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    TTSUpdateSettingsFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.runner.types import RunnerArguments
from pipecat.runner.utils import create_transport
from pipecat.transports.base_transport import BaseTransport, TransportParams
from pipecat.workers.runner import WorkerRunner

from orpheus_plugin.errors import OrpheusError
from orpheus_plugin.pipecat import OrpheusTTS, OrpheusTTSSettings
from orpheus_plugin.pipecat.wav import WavTransport
from orpheus_plugin.speech_engine import SpeechEngine

transport_params = {"webrtc": lambda: TransportParams(audio_out_enabled=True)}


def tour(engine: SpeechEngine) -> list[Frame]:
    """One reply, with changes in the middle of it."""
    frames: list[Frame] = [LLMFullResponseStartFrame()]

    def say(text: str) -> None:
        frames.append(LLMTextFrame(f"{text} "))

    def change(settings: OrpheusTTSSettings) -> None:
        frames.append(TTSUpdateSettingsFrame(delta=settings))

    say("This is the voice I begin with.")
    for voice in engine.voices[1:4]:
        change(OrpheusTTS.Settings(voice=voice))
        say(f"And this is {voice}, in the same reply.")
    change(OrpheusTTS.Settings(voice=None, temperature=0.3))
    say("Now I am sampled at a low temperature, which sounds even and calm.")
    change(OrpheusTTS.Settings(temperature=1.0, top_p=0.95))
    say("Now at a high one, which sounds livelier and is less predictable.")
    change(OrpheusTTS.Settings(temperature=None, top_p=None, seed=1))
    say("And now with a seed. The same words would sound the same again.")
    return [*frames, LLMFullResponseEndFrame()]


async def run_bot(transport: BaseTransport, runner_args: RunnerArguments, *, end: bool) -> None:
    tts = OrpheusTTS()
    worker = PipelineWorker(
        Pipeline([transport.input(), tts, transport.output()]),
        params=PipelineParams(enable_metrics=True),
        idle_timeout_secs=runner_args.pipeline_idle_timeout_secs,
    )

    @transport.event_handler("on_client_connected")
    async def begin(transport: BaseTransport, client: object) -> None:
        await worker.queue_frames([*tour(tts.engine), *([EndFrame()] if end else [])])

    @transport.event_handler("on_client_disconnected")
    async def leave(transport: BaseTransport, client: object) -> None:
        await worker.cancel()

    runner = WorkerRunner(handle_sigint=runner_args.handle_sigint)
    await runner.add_workers(worker)
    await run_to_end(runner, worker, transport)


async def bot(runner_args: RunnerArguments) -> None:
    """Called by Pipecat's runner for each caller."""
    await run_bot(await create_transport(runner_args, transport_params), runner_args, end=False)


async def write(path: Path) -> None:
    await OrpheusTTS.warm()
    await run_bot(WavTransport(path), RunnerArguments(), end=True)


def main() -> int:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--out", metavar="FILE.wav", type=Path, help="write a file, no page")
    args, _ = options.parse_known_args()
    try:
        asyncio.run(write(args.out) if args.out else OrpheusTTS.warm())
    except OrpheusError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if args.out:
        print(f"wrote {args.out}")
        return 0
    from pipecat.runner.run import app
    from pipecat.runner.run import main as serve

    serve_offline(app)
    serve(argparse.ArgumentParser(parents=[options]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
