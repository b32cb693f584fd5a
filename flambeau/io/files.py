"""`fb.load` and `fb.save`: files of weights, of whichever format."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal

from flambeau._errors import CheckpointError
from flambeau.core.module import Module
from flambeau.io._file import BadFileError, File, Path, naming
from flambeau.io._safetensors import checked_arrays, read_safetensors, write_safetensors
from flambeau.io._sharded import INDEX, in_folder, index_of, parts, read_index, size_in_bytes
from flambeau.io._torch_files import read_torch_legacy, read_torch_zip
from flambeau.io._torch_writing import write_torch
from flambeau.io._whole import whole

__all__ = ["load", "save"]

_OF_TORCH = (".pt", ".pth", ".bin")


def load(path: Path, *, mmap: bool = False) -> Any:
    """Reads a file of weights: of safetensors or of PyTorch, whoever wrote it. torch is not needed, and nothing is called.

    - A safetensors file gives `Tensors`: a dict whose arrays are read when they are asked for.
    - A folder of Hugging Face, or a `*.index.json`, gives the `Tensors` of all its files.
    - A file of PyTorch (`.pt`, `.pth`, `.bin`, with or without a zip file around it) gives what was saved: nested dicts and
      lists, numbers and texts, with an array for each tensor. Tensors that share all their values are one array. What is
      neither a tensor nor plain data is refused by its name, as by `torch.load(weights_only=True)`.

    While JAX runs without x64, 64-bit values come in 32 bits.

    Args:
        path: of the file or the folder; the name that `fb.save` was given also where it wrote several files.
        mmap: whether arrays on a CPU are the mapped file itself, where it lies so that they can be. That takes neither time
            nor memory until they are used. Nobody may write into the file meanwhile; `fb.save` does not, as it puts a new
            file in the place of the old one.

    Returns:
        Arrays by name for `net.load_state_dict`, or what was saved.

    Raises:
        CheckpointError: there is no such file, it is damaged or of another format, it wants to call something, or it has
            64-bit values that do not fit into 32.

    Example:
        >>> import flambeau as fb, jax.numpy as jnp
        >>> fb.save({"model": {"weight": jnp.ones(2)}, "epoch": 3}, "last.pt")
        >>> fb.load("last.pt")
        {'model': {'weight': Array([1., 1.], dtype=float32)}, 'epoch': 3}

    Source: https://huggingface.co/docs/safetensors, https://docs.pytorch.org/docs/2.13/generated/torch.load.html
    """
    with naming(path):
        found = os.fspath(path)
        if os.path.isdir(found):
            found = in_folder(found)
        elif not os.path.exists(found) and os.path.exists(found + INDEX):
            found += INDEX
    with naming(found):
        if found.endswith(INDEX):
            return read_index(found, lambda shard: _read(File(shard, mmap)))
        return _read(File(found, mmap))


def save(
    obj: Any,
    path: Path,
    metadata: Mapping[str, str] | None = None,
    *,
    format: Literal["safetensors", "torch"] | None = None,
    max_shard_size: int | str | None = None,
) -> None:
    """Writes weights into a file, which takes the place of one that is there only when it is complete.

    Args:
        obj: a module, what its `state_dict()` gives, or any arrays by name; for a file of PyTorch also nested dicts and lists
            of arrays and plain values. Tied parameters are written under each of their names, in a file of PyTorch once.
        path: of the file; its folder has to exist.
        metadata: texts to keep in the header of a safetensors file.
        format: by default that of PyTorch, which `torch.load(weights_only=True)` reads, if `path` ends in `.pt`, `.pth` or
            `.bin`; safetensors otherwise.
        max_shard_size: how many bytes of arrays a safetensors file may have, as a number or a text such as `"5GB"`. If there
            are more, `model.safetensors` becomes `model-00001-of-00002.safetensors`, `model-00002-of-00002.safetensors` and
            `model.safetensors.index.json`, as Hugging Face names them. `fb.load` takes the name that was given here.

    Raises:
        CheckpointError: something in it cannot be held by the format (the message lists all), or the file cannot be written.

    Example:
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> net, twin = nn.Linear(2, 3), nn.Linear(2, 3)
        >>> fb.save(net, "linear.safetensors")
        >>> twin.load_state_dict(fb.load("linear.safetensors"))
        <All keys matched successfully>
        >>> bool((twin.weight == net.weight).all())
        True

    Source: https://huggingface.co/docs/safetensors, https://docs.pytorch.org/docs/2.13/generated/torch.save.html
    """
    state = obj.state_dict() if isinstance(obj, Module) else obj
    target = os.path.realpath(path)
    if format not in (None, "safetensors", "torch"):
        raise ValueError(f"expected format to be 'safetensors' or 'torch', got {format!r}")
    of_torch = is_of_torch(target) if format is None else format == "torch"
    if of_torch and (metadata is not None or max_shard_size is not None):
        raise ValueError("metadata and max_shard_size belong to safetensors files: put texts into the object itself")
    try:
        if of_torch:
            _save_torch(state, target)
        else:
            _save_safetensors(state, target, metadata, max_shard_size)
    except OSError as error:
        raise CheckpointError(f"{os.fspath(path)} cannot be written: {error.strerror or error}") from error


def is_of_torch(path: Path) -> bool:
    """Whether a file of this name is written in PyTorch's format, if nothing else is said."""
    return os.path.realpath(path).endswith(_OF_TORCH)


def _read(file: File) -> Any:
    """The content decides, not the name."""
    head = file.content(0, min(file.size, 512), "its beginning")
    if head.startswith(b"PK\3\4"):
        return read_torch_zip(file)
    if head[8:9] == b"{":
        return read_safetensors(file)
    if head.startswith(b"\x80"):
        return read_torch_legacy(file)
    if head[257:262] == b"ustar":
        raise BadFileError(
            "was written by PyTorch before version 0.1.10, which is not read here: load and save it in PyTorch"
        )
    raise BadFileError("is no safetensors file and none that torch.save wrote")


def _save_torch(state: Any, target: str) -> None:
    folder, name = os.path.split(target)
    with whole(folder) as batch:
        with batch.new(name) as file:
            write_torch(file, state)
        batch.commit()


def _save_safetensors(
    state: Any, target: str, metadata: Mapping[str, str] | None, max_shard_size: int | str | None
) -> None:
    if not isinstance(state, Mapping):
        raise TypeError(f"expected a module or a dict of arrays by name, got {type(state).__name__}")
    arrays = checked_arrays(state)
    folder, name = os.path.split(target)
    shards = [arrays] if max_shard_size is None else list(parts(arrays, size_in_bytes(max_shard_size)))
    stem, suffix = os.path.splitext(name)
    names = [f"{stem}-{i:05d}-of-{len(shards):05d}{suffix}" for i in range(1, len(shards) + 1)]
    files = dict(zip(names if len(shards) > 1 else [name], shards, strict=True))
    with whole(folder) as batch:
        for each, shard in files.items():
            with batch.new(each) as file:
                write_safetensors(file, shard, metadata)
        if len(files) == 1:
            batch.commit(after=None if max_shard_size is None else name + INDEX)
        else:
            with batch.new(name + INDEX) as file:
                file.write(index_of(files))
            batch.commit(before=name + INDEX, after=name)
