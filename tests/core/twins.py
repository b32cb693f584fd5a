"""The same small program run on torch's modules and on ours, and what each makes of it."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flambeau import nn
from flambeau.core import hooks
from flambeau.core.cell import Cell
from flambeau.core.module import Module

__all__ = ["Library", "Log", "agree", "ours", "plain", "same", "theirs"]


class Library:
    """What a program needs of torch or of flambeau, under the same names."""

    def __init__(self, nn: Any, array: Callable[[Any], Any], hooks: Any) -> None:
        self.nn = nn
        self.array = array
        self.hooks = hooks
        self.Block, self.Net = _networks(self)

    def filled(self, module: Any) -> Any:
        """The module in float64, with numbers that depend on the names of its parameters alone."""
        module.double()
        for name, parameter in module.named_parameters():
            numbers = np.random.default_rng(list(name.encode())).normal(size=tuple(parameter.shape))
            parameter.data = self.array(numbers)
        return module


class Log(list):
    """Hooks that note their names and what they get; `answer` is what they give."""

    def __call__(self, name: str, answer: Any = None) -> Callable[..., Any]:
        def hook(module: Any, *given: Any) -> Any:
            self.append([name, type(module).__name__, *given])
            return answer(*given) if callable(answer) else answer

        return hook


def ours() -> Library:
    return Library(nn, jnp.asarray, hooks)


def theirs(torch: Any) -> Library:
    return Library(torch.nn, lambda values: torch.from_numpy(np.array(values)), torch.nn.modules.module)


def _networks(lib: Library) -> tuple[Any, Any]:
    """A block with everything that can be registered, and a network of them with ties, shared and absent children."""

    class Block(lib.nn.Module):
        def __init__(self, inputs: int = 3, outputs: int = 3) -> None:
            super().__init__()
            self.fc = lib.nn.Linear(inputs, outputs)
            self.scale = lib.nn.Parameter(lib.array([2.0]), requires_grad=False)
            self.register_parameter("absent", None)
            self.register_buffer("steps", lib.array(0))
            self.register_buffer("scratch", lib.array([1.0, 2.0]), persistent=False)
            self.register_buffer("missing", None)
            self.offset = lib.nn.Buffer(lib.array([0.5]))
            self.kind = "block"

        def forward(self, x: Any) -> Any:
            return self.fc(x) * self.scale + self.offset

    class Net(lib.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = Block()
            self.layers = lib.nn.Sequential(Block(), lib.nn.ReLU(), Block(3, 2))
            self.again = self.first
            self.add_module("gone", None)
            self.layers[0].fc.weight = self.first.fc.weight

        def forward(self, x: Any) -> Any:
            return self.layers(self.again(self.first(x)))

    return Block, Net


def plain(value: Any) -> Any:
    """`value` in terms that both libraries share."""
    if isinstance(value, (Cell, jax.Array)) or hasattr(value, "detach"):
        array: Any = value if isinstance(value, jax.Array) else value.detach()
        kind = str(array.dtype).removeprefix("torch.")
        if kind == "bfloat16":  # numpy has none of its own
            array = array.astype(np.float32) if isinstance(value, (Cell, jax.Array)) else array.float()
        return (kind, np.asarray(array).copy())
    if isinstance(value, Module) or (hasattr(value, "named_modules") and not isinstance(value, type)):
        return type(value).__name__
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return (type(value).__name__.strip("_"), *map(plain, value))
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def _outcome(program: Callable[[Library], Any], lib: Library) -> Any:
    try:
        return plain(program(lib))
    except Exception as error:
        return error


def agree(torch: Any, program: Callable[[Library], Any]) -> SimpleNamespace:
    """Asserts that `program` gives the same on both libraries, or raises what code written for PyTorch catches."""
    expected, found = _outcome(program, theirs(torch)), _outcome(program, ours())
    if isinstance(expected, Exception):
        kind = type(expected)
        assert kind.__module__ == builtins.__name__, f"torch raises {expected!r}"
        assert isinstance(found, kind), f"torch raises {expected!r}, ours gives {found!r}"
    else:
        if isinstance(found, Exception):
            raise AssertionError(f"torch gives {expected!r}") from found
        same(found, expected)
    return SimpleNamespace(ours=found, theirs=expected)


def same(found: Any, expected: Any) -> None:
    """Asserts that two results of `plain` are equal, in their order and up to rounding."""
    assert type(found) is type(expected), f"{found!r} and {expected!r}"
    if isinstance(expected, np.ndarray):
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            same(found[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), f"{found!r} and {expected!r}"
        for one, other in zip(found, expected):
            same(one, other)
    else:
        assert found == expected
