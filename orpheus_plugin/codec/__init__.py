"""SNAC 24 kHz decoding: exact while streaming, many streams in one step.

`decoder.load_decoder` reads a snapshot, `batcher.CodecBatcher` serves it. Importing this package loads torch.
"""

from orpheus_plugin.codec.batcher import CodecBatcher, CodecStream
from orpheus_plugin.codec.decoder import SnacConfig, SnacDecoder, load_decoder

__all__ = ["CodecBatcher", "CodecStream", "SnacConfig", "SnacDecoder", "load_decoder"]
