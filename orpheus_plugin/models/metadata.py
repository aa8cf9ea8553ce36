"""What a model's files say of it: the "orpheus" block of config.json, and
generation_config.json."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from orpheus_plugin.errors import BadCheckpoint
from orpheus_plugin.json_files import read_object
from orpheus_plugin.models.catalog import ModelSpec

T = TypeVar("T", bound=msgspec.Struct)


class _Block(msgspec.Struct, omit_defaults=True):
    """See `files.locate`. A field that is not given keeps the value of the ModelSpec."""

    voices: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    languages: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    tags: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    license: str | msgspec.UnsetType = msgspec.UNSET
    codec_repo: str | msgspec.UnsetType = msgspec.UNSET
    spell_numbers: bool | msgspec.UnsetType = msgspec.UNSET
    max_utterance_chars: int | msgspec.UnsetType = msgspec.field(
        name="max_text_chars", default=msgspec.UNSET
    )


class _Generation(msgspec.Struct):
    temperature: Annotated[float, msgspec.Meta(ge=0.0, le=5.0)] | None = None
    top_p: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)] | None = None
    repetition_penalty: Annotated[float, msgspec.Meta(ge=0.1, le=10.0)] | None = None
    do_sample: bool | None = None


def described(spec: ModelSpec, folder: Path) -> ModelSpec:
    """`spec` with the values of the "orpheus" block of config.json and of generation_config.json.

    Raises BadCheckpoint for a value of the wrong type or out of range.
    """
    path = folder / "config.json"
    block = _checked(read_object(path).get("orpheus", {}), _Block, f"{path}: orpheus")
    given = {
        name: value
        for name in block.__struct_fields__
        if (value := getattr(block, name)) is not msgspec.UNSET
    }
    path = folder / "generation_config.json"
    if path.is_file():
        generation = _checked(read_object(path), _Generation, str(path))
        sampling = {
            name: value
            for name in ("temperature", "top_p", "repetition_penalty")
            if (value := getattr(generation, name)) is not None
        }
        if generation.do_sample is False:
            sampling.setdefault("temperature", 0.0)
        given["sampling"] = replace(spec.sampling, **sampling)
    return replace(spec, **given)


def _checked(value: Any, kind: type[T], where: str) -> T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise BadCheckpoint(f"{where}: {error}") from None
