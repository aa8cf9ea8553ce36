"""The command `orpheus-tts`; `python -m orpheus_plugin` is the same, for where it is not on the
path."""

from __future__ import annotations

import sys


def main() -> int:
    """Ctrl-c ends it without a traceback, also while it is being loaded."""
    try:
        from orpheus_plugin.cli.main import main as command

        return command()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
