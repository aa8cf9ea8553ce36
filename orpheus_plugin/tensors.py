"""Tensors of checkpoint files as NumPy arrays: safetensors, and what torch.save writes. Only
tensors are unpickled.

Arrays are views of the mapped file: they cost no memory until they are read. NumPy has no bfloat16:
its bits come as uint16, and `float32` widens them. The package `safetensors` is not used: its NumPy
reader refuses bfloat16 and copies what it reads.
"""

from __future__ import annotations

import json
import mmap
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orpheus_plugin.errors import BadCheckpoint, ModelNotFound
from orpheus_plugin.json_files import read_object

Tensor = NDArray[Any]
Tensors = dict[str, Tensor]

_FORMATS = (
    "F64 <f8, F32 <f4, F16 <f2, BF16 <u2, F8_E4M3 <u1, F8_E5M2 <u1, BOOL <u1, I64 <i8, I32 <i4,"
    " I16 <i2, I8 <i1, U64 <u8, U32 <u4, U16 <u2, U8 <u1"
)
_KINDS = dict(pair.split() for pair in _FORMATS.split(","))
_STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "<u2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
}


def float32(tensor: Tensor) -> NDArray[np.float32]:
    """The values of a tensor; uint16 are the bits of bfloat16."""
    if tensor.dtype == np.uint16:
        return (tensor.astype(np.uint32) << 16).view(np.float32)
    return tensor.astype(np.float32)


def read_tensors(folder: Path) -> Tensors:
    """All tensors of a checkpoint: model.safetensors, its shards, or pytorch_model.bin.

    Raises ModelNotFound if there is none of them, BadCheckpoint for a file that is damaged or no
    checkpoint.
    """
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    pickled = folder / "pytorch_model.bin"
    if index.is_file():
        try:
            shards = sorted({str(s) for s in read_object(index)["weight_map"].values()})
        except (KeyError, TypeError, AttributeError) as error:
            raise BadCheckpoint(f"{index}: cannot be read: {error}") from error
        tensors: Tensors = {}
        for shard in shards:
            tensors |= read_safetensors(folder / shard)
        return tensors
    if single.is_file():
        return read_safetensors(single)
    if pickled.is_file():
        return read_pickled(pickled)
    raise ModelNotFound(f"{folder}: no model.safetensors")


def read_safetensors(path: Path) -> Tensors:
    """Layout: 8 bytes little-endian length of a JSON header, the header, the tensors
    (github.com/huggingface/safetensors). Raises BadCheckpoint."""
    try:
        header, data = _header_and_data(path)
        return {
            name: np.frombuffer(
                data[entry["data_offsets"][0] : entry["data_offsets"][1]], _KINDS[entry["dtype"]]
            ).reshape(entry["shape"])
            for name, entry in header.items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise BadCheckpoint(f"{path}: corrupt or unreadable: {_reason(error)}") from error


def _header_and_data(path: Path) -> tuple[dict[str, Any], memoryview]:
    with path.open("rb") as file:
        whole = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(bytes(whole[8 : 8 + length]) if 8 + length <= len(whole) else b"")
    header.pop("__metadata__", None)
    data = whole[8 + length :]
    if any(entry["data_offsets"][1] > len(data) for entry in header.values()):
        raise ValueError("the file is shorter than its header says")
    return header, data


def read_pickled(path: Path) -> Tensors:
    """A state dict as torch.save writes it since torch 1.6: a zip file of a pickle and the bytes of
    each storage.

    Raises BadCheckpoint, also for a pickle with anything but tensors in it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            (name,) = (n for n in archive.namelist() if n.endswith("/data.pkl"))
            with archive.open(name) as file:
                found = _Unpickler(file, archive, name.removesuffix("data.pkl")).load()
    except Exception as error:  # zipfile and pickle raise a dozen kinds for other files
        raise BadCheckpoint(f"{path}: corrupt or unreadable: {_reason(error)}") from error
    if not isinstance(found, Mapping) or not all(isinstance(t, np.ndarray) for t in found.values()):
        raise BadCheckpoint(f"{path}: not a dictionary of tensors")
    return {str(name): tensor for name, tensor in found.items()}


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, archive: zipfile.ZipFile, prefix: str) -> None:
        super().__init__(file)
        self._archive, self._prefix = archive, prefix

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        allowed = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
            ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
        }
        try:
            return allowed[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is not part of a tensor") from None

    def persistent_load(self, pid: Any) -> Tensor:
        _, kind, key, *_ = pid
        return np.frombuffer(self._archive.read(f"{self._prefix}data/{key}"), kind)


def _rebuild_tensor(
    storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object
) -> Tensor:
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 not in size and not (0 <= offset <= last < len(storage) and min(stride, default=0) >= 0):
        raise ValueError("a tensor lies outside its storage")
    bytes_ = tuple(step * storage.itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(storage[offset:], size, bytes_, writeable=False)


def _rebuild_parameter(tensor: Tensor, *_: object) -> Tensor:
    return tensor


def _reason(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
