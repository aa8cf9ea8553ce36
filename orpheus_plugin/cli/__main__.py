"""`python -m orpheus_plugin.cli` is `orpheus-tts`, for where scripts are not on the path."""

from __future__ import annotations

import sys

from orpheus_plugin.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
