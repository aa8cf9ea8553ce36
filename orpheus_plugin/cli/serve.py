"""`orpheus-tts serve`: its options, each also an ORPHEUS_... variable of the environment, as one
ServerConfig."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from orpheus_plugin.cli.options import (
    add_cache_arguments,
    add_engine_arguments,
    cache_options,
    engine_config,
)
from orpheus_plugin.errors import InvalidOptions
from orpheus_plugin.options import MAX_TEXT_CHARS
from orpheus_plugin.server.config import DEFAULT_PORT, Limits, ServerConfig
from orpheus_plugin.text.pronunciations import Pronunciations

logger = logging.getLogger(__name__)

KEY_VARIABLE = "ORPHEUS_API_KEY"

_YES, _NO = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `orpheus-tts serve`, except those of the model."""
    limits = Limits()
    place = parser.add_argument_group("where to listen")
    place.add_argument("--host", default="127.0.0.1", help="address (default: %(default)s)")
    place.add_argument(
        "--port",
        type=int,
        default=DEFAULT_PORT,
        help="port; 0 picks a free one (default: %(default)s)",
    )
    place.add_argument("--uds", type=Path, metavar="PATH", help="listen on a Unix socket instead")
    who = parser.add_argument_group("who may speak")
    who.add_argument(
        "--api-key",
        help="key that clients must send; other users of this machine can see it in the list of"
        " processes: set ORPHEUS_API_KEY or use a file instead",
    )
    who.add_argument("--api-key-file", type=Path, metavar="FILE", help="a file that holds the key")
    who.add_argument(
        "--insecure",
        action="store_true",
        help="serve everyone who can reach the address, without a key",
    )
    who.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="let pages of this origin send requests, such as https://example.org; * is all;"
        " may be given several"
        " times",
    )
    size = parser.add_argument_group("limits")
    size.add_argument("--max-turns", type=int, help="turns that speak at once (default: measured)")
    size.add_argument(
        "--max-text",
        type=int,
        default=MAX_TEXT_CHARS,
        help="characters per turn (default: %(default)s)",
    )
    size.add_argument(
        "--max-connections",
        type=int,
        default=limits.connections,
        help="connections at once (default: %(default)s)",
    )
    size.add_argument(
        "--turn-idle",
        type=float,
        default=limits.turn_idle_s,
        metavar="S",
        help="end a turn without text in or audio out for so long (default: %(default)s)",
    )
    size.add_argument(
        "--turn-total",
        type=float,
        default=limits.turn_total_s,
        metavar="S",
        help="longest duration of a turn (default: %(default)s)",
    )
    voices = parser.add_argument_group("voices")
    voices.add_argument(
        "--voice-map",
        type=Path,
        metavar="FILE.json",
        help='file with voice names of your own: {"voices": {"their name": "tara"}}',
    )
    voices.add_argument(
        "--strict-voices",
        action="store_true",
        help="refuse voices of other models and vendors instead of replacing them by the model's"
        " own",
    )
    gpu = parser.add_argument_group("GPU")
    gpu.add_argument(
        "--mps",
        action="store_true",
        help="share the GPU through NVIDIA's MPS; its daemon is started and ended if none runs",
    )
    gpu.add_argument(
        "--replicas",
        type=int,
        default=1,
        metavar="N",
        help="engines on one GPU behind this listener, each with its cores and weights (default:"
        " %(default)s)",
    )
    text = parser.add_argument_group("text")
    text.add_argument(
        "--pronunciations",
        type=Path,
        metavar="FILE",
        help="file with the pronunciation of words: lines of `word = spoken`",
    )
    text.add_argument(
        "--spell-numbers",
        action=argparse.BooleanOptionalAction,
        help="write numbers out in words before the model reads them (default: the model's own)",
    )
    add_cache_arguments(parser)
    life = parser.add_argument_group("life and log")
    life.add_argument(
        "--idle-exit", type=float, metavar="S", help="end when no client was connected for so long"
    )
    life.add_argument(
        "--drain",
        type=float,
        default=30.0,
        metavar="S",
        help="time for running turns when the server is asked to end (default: %(default)s)",
    )
    life.add_argument(
        "--nice",
        type=int,
        default=0,
        choices=range(20),
        metavar="0-19",
        help="niceness of a model on the CPU, so that agents that send audio come first (Unix)",
    )
    life.add_argument("--log-file", type=Path, help="where the log goes (default: standard error)")
    life.add_argument(
        "--log-level",
        default="info",
        choices=("debug", "info", "warning", "error"),
        help="level of the log (default: %(default)s)",
    )
    life.add_argument("--log-text", action="store_true", help="log what is spoken")


def variable_of(action: argparse.Action) -> str | None:
    """The variable of the environment that stands for an option; None for what has none."""
    name = next((option for option in action.option_strings if option.startswith("--")), None)
    if name is None or action.dest == "help":
        return None
    return "ORPHEUS_" + name[2:].replace("-", "_").upper()


def read_environment(
    parser: argparse.ArgumentParser, environment: Mapping[str, str] = os.environ
) -> None:
    """Make ORPHEUS_MAX_TURNS the default of --max-turns, and so on. Commas separate the items of
    lists.

    Ends the process, as a wrong option does, if a value does not fit.
    """
    for action in parser._actions:
        variable = variable_of(action)
        if variable is None or variable == KEY_VARIABLE:  # the key's has its own place, `_key`
            continue
        text = environment.get(variable)
        if not text:
            continue
        try:
            action.default = _value(action, text)
        except (ValueError, TypeError):
            allowed = (
                f"; choose from {', '.join(map(str, action.choices))}" if action.choices else ""
            )
            parser.error(
                f"{variable}={text!r} is not a value of {action.option_strings[0]}{allowed}"
            )


def _value(action: argparse.Action, text: str) -> object:
    if action.nargs == 0:
        if text.lower() not in (*_YES, *_NO):
            raise ValueError(text)
        return text.lower() in _YES
    convert = action.type if callable(action.type) else str
    if isinstance(action.default, list):
        return [convert(part.strip()) for part in text.split(",") if part.strip()]
    value = convert(text)
    if action.choices is not None and value not in action.choices:
        raise ValueError(text)
    return value


def server_config(args: argparse.Namespace) -> ServerConfig:
    """The configuration that the options of `add_arguments` and `add_engine_arguments` give. Raises
    InvalidOptions."""
    return ServerConfig(
        engine=replace(
            engine_config(args),
            max_turns=args.max_turns,
            measure=args.max_turns is None,
            max_text_chars=args.max_text,
            strict_voices=args.strict_voices,
            cache=cache_options(args),
            spell_numbers=args.spell_numbers,
            pronunciations=(
                Pronunciations.from_file(args.pronunciations) if args.pronunciations else None
            ),
        ),
        host=args.host,
        port=args.port,
        uds=args.uds,
        api_key=_key(args),
        insecure=args.insecure,
        origins=tuple(args.allow_origin),
        limits=Limits(
            connections=args.max_connections,
            turn_idle_s=args.turn_idle,
            turn_total_s=args.turn_total,
            message_bytes=max(Limits().message_bytes, 8 * args.max_text),
        ),
        voice_map=args.voice_map,
        idle_exit_s=args.idle_exit,
        drain_s=args.drain,
        nice=args.nice,
        mps=args.mps,
        replicas=args.replicas,
        log_file=args.log_file,
        log_level=args.log_level,
        log_text=args.log_text,
    )


def _key(args: argparse.Namespace) -> str | None:
    if args.api_key:
        logger.warning("--api-key shows in the list of processes; --api-key-file does not")
        return str(args.api_key)
    if args.api_key_file is None:
        return os.environ.get(KEY_VARIABLE) or None
    try:
        key = args.api_key_file.read_text("utf-8").strip()
    except (OSError, ValueError) as error:
        raise InvalidOptions(f"--api-key-file {args.api_key_file}: {error}") from None
    if not key:
        raise InvalidOptions(f"--api-key-file {args.api_key_file} is empty")
    return str(key)


def configure(*arguments: str) -> ServerConfig:
    """The configuration of `orpheus-tts serve ARGUMENTS` in this environment, for programs that run
    a server themselves."""
    parser = argparse.ArgumentParser(prog="orpheus-tts serve")
    add_engine_arguments(parser)
    add_arguments(parser)
    read_environment(parser)
    return server_config(parser.parse_args(arguments))


def run(args: argparse.Namespace) -> int:
    """Serve until asked to end; the exit code."""
    from orpheus_plugin.server.process import serve

    return serve(server_config(args))
