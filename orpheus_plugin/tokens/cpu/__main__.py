"""Compiles the step for weights like those of a checkpoint:
``python -m orpheus_plugin.tokens.cpu FOLDER``."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from orpheus_plugin.tokens.cpu.generator import CpuLlama
from orpheus_plugin.tokens.vocabulary import Vocabulary


async def main(folder: Path) -> None:
    generator = CpuLlama(folder, Vocabulary.load(folder), max_streams=1)
    await generator.start()
    await generator.aclose()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
