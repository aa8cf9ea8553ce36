"""A LiveKit voice agent that speaks with Orpheus.

    python agent_examples/livekit_agent.py console   talk to it here: no LiveKit server, key or GPU
    python agent_examples/livekit_agent.py dev       join all rooms of a LiveKit server, at any load
    python agent_examples/livekit_agent.py start     in production: a busy worker takes no calls

`dev` and `start` need LIVEKIT_URL, LIVEKIT_API_KEY and LIVEKIT_API_SECRET: of LiveKit Cloud, or of
your own server (`livekit-server --dev` gives ws://localhost:7880, devkey and secret).

Speech recognition and language model: OPENAI_API_KEY or OPENAI_BASE_URL   an OpenAI-compatible
    language model, chosen by OPENAI_MODEL;
                                        and OpenAI's speech recognition with a key.
                                        Needs `pip install livekit-plugins-openai`.
    a LiveKit Cloud project             LiveKit Inference, if there is neither of them
    nothing                             a small built-in responder, which reads text only

The voice is Orpheus 3B with an NVIDIA GPU, else the small bundled voice. `dev` and `start` speak
through the server at ORPHEUS_URL, else this machine's (`orpheus-tts serve`; one is started if none
runs); `console` in this process. ORPHEUS_VOICE chooses the voice.

`console` uses your microphone and loudspeaker if there are both and speech recognition; else you
type, and it speaks on the sound card, or into the file named by `--out` (default:
livekit_agent.wav).

    pip install "orpheus_plugin[local,livekit]"         and [play] for the sound card
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import importlib.util
import os
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from livekit import rtc
from livekit.agents import (
    Agent,
    AgentServer,
    AgentSession,
    APIConnectOptions,
    JobContext,
    cli,
    inference,
    llm,
)
from livekit.agents.types import DEFAULT_API_CONNECT_OPTIONS
from livekit.agents.voice import io

from orpheus_plugin import OrpheusError
from orpheus_plugin.cli.playback import Sink, SoundCard, WavFile
from orpheus_plugin.livekit import OrpheusTTS, load_fnc

GREETING = "Hello! I am speaking with Orpheus. What would you like to talk about?"
INSTRUCTIONS = (
    "You are a friendly voice agent. Your replies are spoken aloud: one to three short sentences,"
    " no lists, no markdown, no emoji. Where it fits you may write one of <laugh>, <chuckle> or"
    " <sigh>, which is heard as a sound."
)


class SmallTalk(llm.LLM[Any]):
    """Answers if no language model is configured."""

    def chat(
        self,
        *,
        chat_ctx: llm.ChatContext,
        tools: list[llm.Tool] | None = None,
        conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS,
        **_: Any,
    ) -> llm.LLMStream:
        return _SmallTalkStream(
            self, chat_ctx=chat_ctx, tools=tools or [], conn_options=conn_options
        )


class _SmallTalkStream(llm.LLMStream):
    async def _run(self) -> None:
        said = [m for m in self._chat_ctx.messages() if m.role == "user"]
        for word in answer(said[-1].text_content or "" if said else "").split():
            delta = llm.ChoiceDelta(role="assistant", content=word + " ")
            self._event_ch.send_nowait(llm.ChatChunk(id="small-talk", delta=delta))


def answer(said: str) -> str:
    text = said.lower()
    if "time" in text:
        return f"It is {datetime.datetime.now():%H:%M} on my clock."
    if "story" in text:
        return (
            "Once there was a small model that lived on a machine without a network. It had read"
            " many books and seen nothing of the world. One day somebody asked it to speak. It"
            " thought for a fifth of a second, which is long for a model, and said: hello. From"
            " then on it was never quite alone."
        )
    if "bye" in text:
        return "Good bye. It was nice to talk with you."
    if not said.strip():
        return GREETING
    return f"You said: {said.strip()}. Ask me for the time, or for a story."


def stt_and_llm() -> dict[str, Any]:
    """The configured `stt` and `llm` of the session. Without an stt it takes text only."""
    key, url = os.environ.get("OPENAI_API_KEY"), os.environ.get("OPENAI_BASE_URL")
    if key or url:
        if importlib.util.find_spec("livekit.plugins.openai") is None:
            sys.exit("OPENAI_API_KEY or OPENAI_BASE_URL is set: pip install livekit-plugins-openai")
        from livekit.plugins import openai  # type: ignore[attr-defined,import-untyped,unused-ignore]

        chosen = os.environ.get("OPENAI_MODEL", "gpt-4.1-mini")
        found: dict[str, Any] = {"llm": openai.LLM(model=chosen, api_key=key or "none")}
        if key and not url:
            found["stt"] = openai.STT()
        return found
    if os.environ.get("LIVEKIT_URL", "").endswith(".livekit.cloud"):
        return {
            "llm": inference.LLM("openai/gpt-4.1-mini"),
            "stt": inference.STT("deepgram/nova-3"),
        }
    return {"llm": SmallTalk()}


def make_session(speech: OrpheusTTS) -> AgentSession[None]:
    parts = stt_and_llm()
    text_only: dict[str, Any] = (
        {} if "stt" in parts else {"vad": None, "turn_handling": {"turn_detection": None}}
    )
    # Captions and, after an interruption, the history have the words that were spoken.
    return AgentSession(tts=speech, use_tts_aligned_transcript=True, **parts, **text_only)


# ---- rooms

# New calls go to workers whose speech server has a place for them, not to those that cannot speak
# yet.
speech_load = load_fnc()
server = AgentServer(load_fnc=speech_load)


@server.rtc_session()
async def entry(ctx: JobContext) -> None:
    # Jobs are processes of their own and share a server; a console is one process.
    speech = OrpheusTTS(voice=os.environ.get("ORPHEUS_VOICE"), url=place())
    session = make_session(speech)
    await session.start(Agent(instructions=INSTRUCTIONS), room=ctx.room)
    await session.say(GREETING)


def place() -> str | None:
    """The url of the speech engine; None is ORPHEUS_URL, else this machine's server."""
    return "in-process" if "console" in sys.argv and not os.environ.get("ORPHEUS_URL") else None


# ---- a console without a microphone


class Player(io.AudioOutput):
    """Plays into a sink: the sound card, in real time, or a file, at once."""

    def __init__(self, sink: Sink) -> None:
        super().__init__(
            label="player", capabilities=io.AudioOutputCapabilities(pause=False), sample_rate=24_000
        )
        self._sink = sink
        self._played = 0.0

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        await super().capture_frame(frame)
        if not self._played:
            self.on_playback_started(created_at=datetime.datetime.now().timestamp())
        self._played += frame.duration
        await asyncio.to_thread(self._sink.write, bytes(frame.data))

    def flush(self) -> None:
        super().flush()
        self._finish(interrupted=False)

    def clear_buffer(self) -> None:
        self._finish(interrupted=True)

    def _finish(self, *, interrupted: bool) -> None:
        if self._played:
            played, self._played = self._played, 0.0
            self.on_playback_finished(playback_position=played, interrupted=interrupted)


class Terminal(io.TextOutput):
    """Shows the spoken text."""

    def __init__(self) -> None:
        super().__init__(label="terminal", next_in_chain=None)

    async def capture_text(self, text: str) -> None:
        print(text, end="", flush=True)

    def flush(self) -> None:
        print(flush=True)


async def typed_lines() -> AsyncIterator[str]:
    """Lines that are typed. Read on a daemon thread, so that ctrl-c works without another line."""
    loop, lines = asyncio.get_running_loop(), asyncio.Queue[str]()

    def read() -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            for line in sys.stdin:
                loop.call_soon_threadsafe(lines.put_nowait, line)
            loop.call_soon_threadsafe(lines.put_nowait, "")

    threading.Thread(target=read, daemon=True).start()
    while line := await lines.get():
        yield line


async def typed_console(sink: Sink) -> None:
    """Answers each line that is typed; a new line interrupts the answer."""
    speech = OrpheusTTS(voice=os.environ.get("ORPHEUS_VOICE"), url=place())
    print("loading the voice ...", file=sys.stderr)
    await speech.connect()
    session = make_session(speech)
    session.output.audio, session.output.transcription = Player(sink), Terminal()
    await session.start(Agent(instructions=INSTRUCTIONS))
    try:
        await session.say(GREETING)
        async for line in typed_lines():
            if not line.strip():
                continue
            await session.interrupt()
            reply = session.generate_reply(user_input=line.strip())
            if not sys.stdin.isatty():
                await reply  # a script waits for its answers
    finally:
        await session.aclose()
        await speech.aclose()
        await speech.engine.aclose()


def sink_for(out: Path | None) -> Sink:
    if out is None:
        try:
            return SoundCard()
        except OrpheusError:
            out = Path("livekit_agent.wav")
    print(f"speaking into {out}", file=sys.stderr)
    return WavFile(out)


def has_microphone() -> bool:
    try:
        import sounddevice

        sounddevice.check_input_settings()
        sounddevice.check_output_settings()
    except Exception:  # no package, no PortAudio library, no device
        return False
    return True


def lacking(arguments: list[str]) -> list[str]:
    """The settings of a LiveKit server that neither the environment nor an option gives."""
    given = {argument.partition("=")[0] for argument in arguments}
    needed = {
        "LIVEKIT_URL": "--url",
        "LIVEKIT_API_KEY": "--api-key",
        "LIVEKIT_API_SECRET": "--api-secret",
    }
    return [
        name for name, option in needed.items() if not os.environ.get(name) and option not in given
    ]


def main() -> int:
    arguments = sys.argv[1:]
    joins = arguments[:1] in (["dev"], ["start"]) and "--help" not in arguments
    if joins and (missing := lacking(arguments)):
        print(
            f"{arguments[0]} joins the rooms of a LiveKit server and needs {', '.join(missing)}"
            " (`livekit-server --dev` gives ws://localhost:7880, devkey and secret). Without a"
            " server: console",
            file=sys.stderr,
        )
        return 2
    out = None
    if "--out" in arguments:
        at = arguments.index("--out")
        if at + 1 == len(arguments):
            print("--out needs a file name", file=sys.stderr)
            return 2
        out = Path(arguments[at + 1])
    if arguments[:1] == ["console"] and "--help" not in arguments:
        hears = "stt" in stt_and_llm()
        if out is not None or not hears or not has_microphone():
            why = "no speech recognition is configured" if not hears else "there is no microphone"
            if out is None:
                print(f"{why}: type to it, end with ctrl-d", file=sys.stderr)
            with contextlib.closing(sink_for(out)) as sink:
                try:
                    asyncio.run(typed_console(sink))
                except OrpheusError as error:
                    print(error.message, file=sys.stderr)
                    return 1
                except KeyboardInterrupt:
                    return 130
            return 0
    if joins:
        print("loading the voice ...", file=sys.stderr)
        speech_load.warm()  # the first caller does not wait for it
    cli.run_app(server)
    return 0


if __name__ == "__main__":
    sys.exit(main())
