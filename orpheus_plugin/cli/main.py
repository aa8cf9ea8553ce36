"""`orpheus-tts`: say, voices, download, doctor, serve. Errors are one line; exit codes 1 (failed)
and 2 (usage)."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from orpheus_plugin import models
from orpheus_plugin.cli.options import adapters, add_engine_arguments, engine_config
from orpheus_plugin.cli.playback import Sink, SoundCard, WavFile
from orpheus_plugin.engine.local import LocalEngine
from orpheus_plugin.errors import InvalidOptions, OrpheusError
from orpheus_plugin.events import AudioChunk, TurnStats, Word
from orpheus_plugin.options import SpeechOptions
from orpheus_plugin.tokens.adapters import read_config
from orpheus_plugin.turn import Turn
from orpheus_plugin.version import __version__

TYPING_PAUSE_S = 0.3
"""Seconds. When standard input pauses for so long, the lines so far are spoken, even if a sentence
is not complete."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the command. Returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    parser = _parser(argv)
    args = parser.parse_args(argv)
    logging.basicConfig(
        level=logging.DEBUG if args.verbose else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
    )
    if not getattr(args, "run", None):
        parser.print_help()
        return 2
    try:
        code: int = args.run(args)
        return code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 1
    except OrpheusError as error:
        print(f"orpheus-tts: {error.message}", file=sys.stderr)
        return 2 if isinstance(error, InvalidOptions) else 1


class _OneLineParser(argparse.ArgumentParser):
    """Reports an error in one line, as all commands do."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    parser = _OneLineParser(
        prog="orpheus-tts", description="Orpheus text-to-speech for real-time voice agents."
    )
    parser.add_argument("--version", action="version", version=f"orpheus-tts {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="log more")
    commands = parser.add_subparsers(metavar="COMMAND")

    say = commands.add_parser("say", help="speak a text", description="Speak a text.")
    say.add_argument("text", metavar="TEXT|-", help="the text; - reads it from standard input")
    say.add_argument("-o", "--out", type=Path, metavar="FILE.wav", help="write a WAV file")
    say.add_argument("--voice", help="one of `orpheus-tts voices` (default: the model's first)")
    say.add_argument("--seed", type=int, help="the same seed speaks the same way again")
    say.add_argument("--temperature", type=float)
    say.add_argument("--speed", type=float, help="0.5 to 2; 2 is twice as fast")
    say.add_argument("--gain-db", type=float, help="added to the loudness, -40 to 20")
    say.add_argument("--words", action="store_true", help="print each word with its estimated time")
    add_engine_arguments(say)
    say.set_defaults(run=_say)

    voices = commands.add_parser("voices", help="list models, voices, tags and licenses")
    voices.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="list this LoRA adapter, too, as `serve` takes it; may be given several times",
    )
    voices.set_defaults(run=_voices)

    download = commands.add_parser("download", help="download a model's files from the hub")
    download.add_argument(
        "model", nargs="?", help="a name of `orpheus-tts voices` or a hub repository"
    )
    download.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="[NAME=]REPOSITORY",
        help="download this LoRA adapter, a voice; may be given several times",
    )
    download.set_defaults(run=_download)

    doctor = commands.add_parser("doctor", help="check this machine and speak one sentence")
    add_engine_arguments(doctor)
    doctor.set_defaults(run=_doctor)

    _add_evaluate_command(commands, argv)
    _add_server_command(commands, argv)
    return parser


def _add_evaluate_command(
    commands: argparse._SubParsersAction[_OneLineParser], argv: Sequence[str]
) -> None:
    evaluate = commands.add_parser(
        "evaluate", help="how well voices speak: words understood, naturalness, speed, in one table"
    )
    if "evaluate" in argv:
        from orpheus_plugin.cli.evaluate import add_arguments, run

        add_arguments(evaluate)
        evaluate.set_defaults(run=run)


def _add_server_command(
    commands: argparse._SubParsersAction[_OneLineParser], argv: Sequence[str]
) -> None:
    serve = commands.add_parser("serve", help="one engine for many agents, over websocket and HTTP")
    serve.set_defaults(run=_serve)
    if "serve" in argv:  # other commands do not load the server's options
        from orpheus_plugin.cli.serve import add_arguments, read_environment

        add_engine_arguments(serve)
        add_arguments(serve)
        read_environment(serve)


# ---- commands


def _say(args: argparse.Namespace) -> int:
    if args.text == "-" and sys.stdin is None:
        raise InvalidOptions("standard input is closed; give the text as an argument")
    options = SpeechOptions(
        voice=args.voice,
        seed=args.seed,
        temperature=args.temperature,
        speed=args.speed,
        gain_db=args.gain_db,
    )
    # A file has no listener, so generation need not wait for one.
    engine = LocalEngine(engine_config(args, ahead_s=None if args.out else 20.0))
    engine.check_voice(options.voice)
    sink: Sink = WavFile(args.out) if args.out else SoundCard()
    with contextlib.closing(sink):
        stats = asyncio.run(_speak(engine, options, args.text, sink, show_words=args.words))
        sink.write(b"")  # text without speech gives an empty file, a failure gives none
    if stats.audio_s == 0:
        print("orpheus-tts: there is nothing to speak in this text", file=sys.stderr)
        return 0
    factor = f"{stats.rtfx:.1f} x real time" if stats.rtfx else ""
    print(
        f"{stats.audio_s:.1f} s of speech, first sound after {(stats.ttfa_s or 0) * 1000:.0f} ms,"
        f" {factor}, {stats.tokens} tokens" + (f" -> {args.out}" if args.out else ""),
        file=sys.stderr,
    )
    return 0


async def _speak(
    engine: LocalEngine, options: SpeechOptions, text: str, sink: Sink, *, show_words: bool
) -> TurnStats:
    await engine.start()
    try:
        async with engine.open_turn(options) as turn:
            feeding = asyncio.create_task(_feed(turn, text))
            try:
                async for event in turn:
                    if isinstance(event, AudioChunk):
                        await asyncio.to_thread(sink.write, event.pcm)
                    elif isinstance(event, Word) and show_words:
                        print(f"{event.start_s:7.2f} {event.end_s:7.2f}  {event.text}")
                await feeding
            finally:
                feeding.cancel()
            return turn.stats
    finally:
        await engine.aclose()


async def _feed(turn: Turn, text: str) -> None:
    """Push the text; standard input is spoken as it comes."""
    try:
        if text != "-":
            turn.push_text(text)
            return
        while line := await _next_line(turn):
            turn.push_text(line)
    except BaseException:
        await turn.cancel()
        raise
    finally:
        turn.end()


async def _next_line(turn: Turn) -> str:
    """The next line of standard input, "" at its end. If none comes for a while, the earlier lines
    are spoken."""
    reading: asyncio.Task[str] = asyncio.create_task(asyncio.to_thread(sys.stdin.readline))
    await asyncio.wait({reading}, timeout=TYPING_PAUSE_S)
    if not reading.done():
        turn.flush()
    return await reading


def _voices(args: argparse.Namespace) -> int:
    for name, spec in models.known_models().items():
        print(f"{name}  ({', '.join(spec.languages)}; license: {spec.license})")
        print(f"  voices: {', '.join(spec.voices) or 'any name the checkpoint knows'}")
        if spec.tags:
            print(f"  tags:   {' '.join(f'<{tag}>' for tag in spec.tags)}")
        try:
            print(f"  files:  {models.locate(name).lm}")
        except OrpheusError:
            print(f"  files:  not here; orpheus-tts download {name}")
    for name, adapter in models.find_adapters(adapters(args.adapter)).items():
        said = read_config(Path(adapter.source))
        base = said.get("base_model_name_or_path") or "a model that it does not name"
        print(f"{name}  (adapter of {base}, rank {said['r']})")
        print(f"  prompt: {f'{adapter.prompt}: text' if adapter.prompt else 'text'}")
        print(f"  files:  {adapter.source}")
    return 0


def _download(args: argparse.Namespace) -> int:
    if args.model is None and not args.adapter:
        raise InvalidOptions("name what to download: a model, or --adapter owner/name")
    if args.model is not None:
        files = models.download(args.model)
        print(f"{files.spec.name}: model in {files.lm}, codec in {files.codec}")
        print(f"license: {files.spec.license}")
    for text in args.adapter:
        name, _, source = text.rpartition("=")
        folder = models.download_adapter(source)
        print(f"{name or source}: adapter in {folder}")
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from orpheus_plugin.cli.doctor import examine

    return asyncio.run(examine(engine_config(args)))


def _serve(args: argparse.Namespace) -> int:
    from orpheus_plugin.cli.serve import run

    return run(args)


if __name__ == "__main__":
    sys.exit(main())
