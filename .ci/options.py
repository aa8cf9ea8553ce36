"""Writes the options of `orpheus-tts serve`, with their variables, into docs/options.md and
.env.example.

python .ci/options.py       # a test fails where an option has changed and this was not run
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from orpheus_plugin.cli.options import add_engine_arguments
from orpheus_plugin.cli.serve import add_arguments, variable_of

ROOT = Path(__file__).resolve().parent.parent

PAGE_HEAD = """# Options of the server

Every option of `orpheus-tts serve` is also a variable of the environment. An option beats its
variable. Items of lists are separated by commas; switches are `1`, `true`, `yes`, `on`, or `0`,
`false`, `no`, `off`. The server does not start with a wrong value, and names its variable.

`.env.example` lists all of them: copy it to `.env`, and set what you need. Docker
(`--env-file .env`) and the compose files read it; a shell does with `set -a; . ./.env`.
"""

PAGE_TAIL = """
## Variables of others

| Variable | Who reads it |
| --- | --- |
| `ORPHEUS_URL` | agents: the server that speaks for them, or several, with commas between them |
| `ORPHEUS_API_KEY` | agents, too: the key they send |
| `ORPHEUS_STATE_DIR` | where this machine's servers are listed (by default the user's cache) |
| `HF_TOKEN`, `HF_HOME` | the hub's client: a token for gated repositories; where models are |
| `VLLM_CACHE_ROOT` | vLLM: where compiled kernels are kept |
"""

ENV_HEAD = """# Copy to .env and set what you need. Options of `orpheus-tts serve`: docs/options.md.
# Written by .ci/options.py.

# ---- agents
# Servers that speak for them, with commas between several.
#ORPHEUS_URL=http://127.0.0.1:8089

# ---- models
# For repositories that ask for an accepted license.
#HF_TOKEN=
# Where models are kept.
#HF_HOME=
"""


def groups() -> Iterator[tuple[str, list[argparse.Action]]]:
    """The options that have a variable, as `--help` groups them."""
    parser = argparse.ArgumentParser(add_help=False)
    add_engine_arguments(parser)
    add_arguments(parser)
    for group in parser._action_groups:
        options = [action for action in group._group_actions if variable_of(action)]
        if options:
            yield ("model" if group.title == "options" else str(group.title)), options


HELP = re.compile(r"(?P<meaning>.*?)(?:(?: \(|^)default: (?P<default>[^()]*)\)?)?", re.DOTALL)


def parts_of(action: argparse.Action) -> tuple[str, str]:
    """What an option means, and its default as `--help` says it."""
    match = HELP.fullmatch(str(action.help).replace("%(default)s", str(action.default)))
    assert match is not None
    meaning, default = match["meaning"], match["default"]
    if default is None:
        plain = action.nargs != 0 and action.default not in (None, [])
        default = str(action.default) if plain else ""
    if action.choices is not None:
        names = ", ".join(map(str, action.choices))
        names = "0 to 19" if isinstance(action.choices, range) else names
        meaning += f"{'; ' if meaning else 'one of '}{names}"
    if action.metavar == "S":
        meaning += " (seconds)"
    return meaning, default


def page() -> str:
    """docs/options.md"""
    parts = [PAGE_HEAD]
    for title, options in groups():
        parts.append(f"\n## {title[:1].upper()}{title[1:]}\n\n")
        parts.append("| Option | Variable | Default | Meaning |\n| --- | --- | --- | --- |\n")
        for action in options:
            name = next(option for option in action.option_strings if option.startswith("--"))
            meaning, default = parts_of(action)
            cells = [f"`{name}`", f"`{variable_of(action)}`", default, meaning]
            parts.append(f"| {' | '.join(cells)} |\n")
    return "".join([*parts, PAGE_TAIL])


def env_example() -> str:
    """.env.example"""
    parts = [ENV_HEAD]
    for title, options in groups():
        parts.append(f"\n# ---- {title}\n")
        for action in options:
            meaning, default = parts_of(action)
            parts.append(f"# {meaning}{f'; by default {default}' if default else ''}\n")
            parts.append(f"#{variable_of(action)}=\n")
    return "".join(parts)


FILES = {ROOT / "docs/options.md": page, ROOT / ".env.example": env_example}

if __name__ == "__main__":
    for path, text in FILES.items():
        path.write_text(text(), "utf-8")
