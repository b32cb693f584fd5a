"""What the tests of `flambeau.models` and `scripts/make_model_goldens.py`, which runs the original networks, have in common.

Nothing random is stored: both sides fill a network with the same numbers, which follow from the names of its tensors.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

GOLDEN = Path(__file__).parent / "golden"
LEARNING_RATE = 0.1


class Spec(NamedTuple):
    """A tensor of a state dict, without its values."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.name} {list(self.shape)} {self.dtype}"


def filling(name: str, shape: tuple[int, ...], dtype: str = "float64") -> np.ndarray:
    """The values of the tensor of a name: of such sizes that no activation explodes or dies out."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if dtype.startswith("int"):
        return np.zeros(shape, dtype)
    if name.endswith("running_var"):
        return rng.uniform(0.5, 1.5, shape)
    values = rng.standard_normal(shape)
    if len(shape) > 1:
        return values / math.sqrt(max(1, math.prod(shape[1:])))
    return values * 0.1 + (1 if name.endswith("weight") else 0)


def images(size: int, channels: int = 3, count: int = 2) -> np.ndarray:
    """Images `(count, channels, size, size)`."""
    return np.random.default_rng(size).standard_normal((count, channels, size, size))


def digest(specs: Iterable[Spec]) -> dict[str, Any]:
    """Names, order and shapes of a whole state dict in three numbers."""
    specs = list(specs)
    lines = "\n".join(f"{spec.name} {list(spec.shape)}" for spec in specs)
    numbers = sum(math.prod(spec.shape) for spec in specs)
    return {"tensors": len(specs), "numbers": numbers, "sha256": hashlib.sha256(lines.encode()).hexdigest()[:16]}


# Layers whose settings (strides, epsilons, probabilities, ...) no name or shape tells.
_TOLD = (
    "Conv2d BatchNorm2d LayerNorm LayerNorm2d Linear Dropout StochasticDepth MaxPool2d AdaptiveAvgPool2d "
    "ReLU GELU SiLU Hardswish Hardsigmoid Sigmoid"
).split()


def settings(net: Any) -> str:
    """One number for the layers of a network and for how each is set, in order; of torch's modules or of ours."""
    leaves = [repr(module) for module in net.modules() if type(module).__name__ in _TOLD]
    # ours are never in place, and drop whole instances alone
    told = [re.sub(r"(, )?(inplace=(True|False)|mode=row)", "", leaf) for leaf in leaves]
    text = "\n".join(leaf for leaf in told if leaf != "StochasticDepth(p=0.0)")
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_golden(case: str, specs: Iterable[Spec], arrays: dict[str, Any]) -> None:
    lines = "\n".join(map(str, specs)).encode()
    np.savez_compressed(GOLDEN / f"{case}.npz", specs=np.frombuffer(lines, np.uint8), **arrays)


def read_golden(case: str) -> tuple[list[str], dict[str, np.ndarray]]:
    """The lines of the specs, and the arrays by name."""
    with np.load(GOLDEN / f"{case}.npz") as file:
        arrays = dict(file)
    return arrays.pop("specs").tobytes().decode().split("\n"), arrays


def read_digests(name: str) -> dict[str, dict[str, Any]]:
    return json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
