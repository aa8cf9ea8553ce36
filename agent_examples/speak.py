"""Speak into any Pipecat transport without a user interface: an announcement into a room, a call, a
loudspeaker or a file.

    python agent_examples/speak.py "Dinner is ready." wav path=dinner.wav
    python agent_examples/speak.py "Dinner is ready." local
    python agent_examples/speak.py "Dinner." livekit url=wss://... token=... room_name=kitchen
    python agent_examples/speak.py "Dinner." daily room_url=https://... token=... bot_name=Cook
    python agent_examples/speak.py - my_package.transports:MyTransport key=value < text.txt

The transport is one of those names or module:Class; the rest are the arguments of its constructor.
Parameters of audio go to its `params`.

    pip install "orpheus_plugin[local,pipecat,examples]"

and the extra of pipecat-ai that the transport needs.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import inspect
import sys
import typing
from typing import Any

from ctrl_c import run_to_end
from loguru import logger
from pipecat.frames.frames import EndFrame, TTSSpeakFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.transports.base_transport import BaseTransport, TransportParams
from pipecat.workers.runner import WorkerRunner

from orpheus_plugin.errors import OrpheusError
from orpheus_plugin.pipecat import OrpheusTTS

TRANSPORTS = {
    "wav": "orpheus_plugin.pipecat.wav:WavTransport",
    "local": "pipecat.transports.local.audio:LocalAudioTransport",
    "livekit": "pipecat.transports.livekit.transport:LiveKitTransport",
    "daily": "pipecat.transports.daily.transport:DailyTransport",
    "websocket": "pipecat.transports.websocket.client:WebsocketClientTransport",
}
LISTENER_CAME = {
    "livekit": "on_first_participant_joined",
    "daily": "on_first_participant_joined",
    "websocket": "on_connected",
}
"""The event with which a transport reports a listener."""


def make_transport(name: str, arguments: dict[str, str]) -> BaseTransport:
    """The transport, with audio output enabled in whatever class of parameters it takes."""
    module, _, kind = TRANSPORTS.get(name, name).partition(":")
    if not kind:
        raise ValueError(f"{name!r} is neither one of {', '.join(TRANSPORTS)} nor module:Class")
    make = getattr(importlib.import_module(module), kind)
    given: dict[str, Any] = dict(arguments)
    if "params" in inspect.signature(make).parameters:
        hint = typing.get_type_hints(make.__init__).get("params", TransportParams)
        kinds = [
            k
            for k in (hint, *typing.get_args(hint))
            if inspect.isclass(k) and issubclass(k, TransportParams)
        ]
        given["params"] = kinds[0](audio_out_enabled=True, audio_out_end_silence_secs=1)
    transport = make(**given)
    assert isinstance(transport, BaseTransport)
    return transport


async def speak(text: str, transport: BaseTransport, voice: str | None, event: str | None) -> None:
    """Speak when the transport's event comes; at once if the transport has none."""
    await OrpheusTTS.warm()
    tts = OrpheusTTS(settings=OrpheusTTS.Settings(voice=voice))
    worker = PipelineWorker(Pipeline([transport.input(), tts, transport.output()]))

    async def say(*_: object) -> None:
        await worker.queue_frames([TTSSpeakFrame(text), EndFrame()])

    if event is None:
        worker.add_event_handler("on_pipeline_started", say)
    else:
        transport.add_event_handler(event, say)
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    await run_to_end(runner, worker, transport)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "text", metavar="TEXT|-", help="what to say; - reads it from standard input"
    )
    parser.add_argument("transport", help=f"{', '.join(TRANSPORTS)} or module:Class")
    parser.add_argument("argument", nargs="*", metavar="KEY=VALUE", help="of the transport")
    parser.add_argument("--voice")
    parser.add_argument("--wait-for", metavar="EVENT", help="of the transport, before speaking")
    args = parser.parse_args()
    logger.remove()
    logger.add(sys.stderr, level="WARNING")
    text = sys.stdin.read() if args.text == "-" else args.text
    try:
        transport = make_transport(args.transport, dict(a.split("=", 1) for a in args.argument))
        event = args.wait_for or LISTENER_CAME.get(args.transport)
        asyncio.run(speak(text, transport, args.voice, event))
    except (OrpheusError, ImportError, TypeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
