"""Compiles the step for weights like those of a snapshot:
``python -m orpheus_plugin.codec.cpu FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

from orpheus_plugin.codec.cpu.decoder import CpuDecoder
from orpheus_plugin.codec.weights import SnacWeights

if __name__ == "__main__":
    CpuDecoder(SnacWeights.load(Path(sys.argv[1])), slots=1).warm_up([(1, 1)])
