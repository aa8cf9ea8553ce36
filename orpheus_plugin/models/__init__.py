"""Which models exist, where their files are, and downloading them."""

from orpheus_plugin.models.adapters import AdapterVoice, download_adapter, find_adapters
from orpheus_plugin.models.catalog import ModelSpec
from orpheus_plugin.models.files import (
    ModelFiles,
    check_voice,
    choose,
    download,
    find,
    known_models,
    locate,
)

__all__ = [
    "AdapterVoice",
    "ModelFiles",
    "ModelSpec",
    "check_voice",
    "choose",
    "download",
    "download_adapter",
    "find",
    "find_adapters",
    "known_models",
    "locate",
]
