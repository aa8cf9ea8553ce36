"""`orpheus-tts evaluate`: voices in one table: word errors, naturalness, rate, pitch."""

from __future__ import annotations

import argparse
import asyncio
import json
from dataclasses import asdict
from pathlib import Path

from orpheus_plugin.cli.options import add_engine_arguments, engine_config
from orpheus_plugin.engine.local import LocalEngine
from orpheus_plugin.errors import InvalidOptions
from orpheus_plugin.evaluation.report import Spoken, figures, speak, table
from orpheus_plugin.evaluation.sentences import HAND_WRITTEN


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--voice",
        action="append",
        default=[],
        help="one to judge; may be given several times (default: the model's first)",
    )
    parser.add_argument(
        "--sentences",
        type=Path,
        metavar="FILE",
        help="sentences to speak, one a line, that the voice was not trained on (default: thirty of"
        " an agent's)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the first sentence (default: 0)")
    parser.add_argument("--sounds", type=Path, metavar="DIR", help="keep what was spoken here")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sentence's figures")
    add_engine_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print one line a sentence and the table; the exit code."""
    sentences = _sentences(args.sentences)
    # No real-time limit, which would hide the engine's speed.
    engine = LocalEngine(engine_config(args, ahead_s=None))
    if engine.languages and engine.languages[0] != "en":
        raise InvalidOptions(
            f"the recogniser understands English; this model speaks {', '.join(engine.languages)}"
        )
    voices = [engine.check_voice(voice) or "" for voice in args.voice or [None]]
    try:
        from orpheus_plugin.evaluation.judge import Listener
        from orpheus_plugin.evaluation.naturalness import Naturalness

        listener, naturalness = Listener(), Naturalness()
    except ImportError as error:
        raise InvalidOptions(
            f"evaluating needs a recogniser and a naturalness model ({error}): pip install"
            " 'orpheus_plugin[evaluate]'"
        ) from error

    def show(one: Spoken) -> None:
        print(
            f"{one.wrong}/{one.words} {one.natural:.2f} {one.text} | {one.heard}",
            flush=True,
        )

    async def judge() -> dict[str, list[Spoken]]:
        await engine.start()
        try:
            return {
                voice: await speak(
                    engine,
                    voice,
                    sentences,
                    listen=listener,
                    score=naturalness,
                    seed=args.seed,
                    sounds=None if args.sounds is None else args.sounds / voice,
                    done=show,
                )
                for voice in voices
            }
        finally:
            await engine.aclose()

    found = asyncio.run(judge())
    summary = {
        voice + (" (adapter)" if voice in engine.adapters else ""): figures(spoken)
        for voice, spoken in found.items()
    }
    print()
    print(table(summary))
    if args.json is not None:
        every = {voice: [asdict(one) for one in spoken] for voice, spoken in found.items()}
        args.json.write_text(json.dumps({"figures": summary, "sentences": every}, indent=1))
    return 0


def _sentences(file: Path | None) -> list[str]:
    if file is None:
        return list(HAND_WRITTEN)
    try:
        lines = [line.strip() for line in file.read_text("utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidOptions(f"--sentences {file}: {error}") from None
    if not any(lines):
        raise InvalidOptions(f"--sentences {file}: no sentence in it")
    return [line for line in lines if line]
