"""`python -m orpheus_plugin` is the command `orpheus-tts`, for where it is not on the path."""

from __future__ import annotations

import sys

from orpheus_plugin.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
