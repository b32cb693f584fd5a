"""The networks by name: `register` puts a constructor into the list, `create` builds by name."""

from __future__ import annotations

import builtins
import difflib
import os
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from flambeau import nn
from flambeau.io import load

__all__ = ["create", "list", "register"]

Make = TypeVar("Make", bound=Callable[..., nn.Module])

_CONSTRUCTORS: dict[str, Callable[..., nn.Module]] = {}


def register(constructor: Make) -> Make:
    """Makes a function or class known to `create` and `list` under its own name.

    Args:
        constructor: takes sizes by name, each with a default, and gives a module.

    Raises:
        ValueError: another constructor has that name.

    Example:
        >>> from flambeau import models, nn
        >>> @models.register
        ... def perceptron(hidden: int = 16) -> nn.Module:
        ...     return nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 1))
        >>> models.create("perceptron", hidden=8)[0]
        Linear(in_features=4, out_features=8, bias=True)
    """
    name = constructor.__name__
    known = _CONSTRUCTORS.get(name)
    # A cell of a notebook that runs again registers its function again.
    if known is not None and (known.__module__, known.__qualname__) != (
        constructor.__module__,
        constructor.__qualname__,
    ):
        raise ValueError(f"{known.__module__} has registered the name {name!r} already")
    _CONSTRUCTORS[name] = constructor
    return constructor


def create(name: str, weights: str | os.PathLike[str] | Mapping[str, Any] | None = None, **sizes: Any) -> nn.Module:
    """Builds the network of a name.

    Args:
        name: one of `models.list()`.
        weights: a checkpoint of that network, as `fb.load` reads it, or arrays by name. Every name and shape has to fit; where
            not all do, as with another number of classes, build without and use `fb.io.load_into(net, path, strict=False)`,
            which reports what was left out.
        **sizes: what the constructor takes, such as `num_classes`.

    Raises:
        ValueError: there is no network of that name.
        StateDictError: the weights do not fit.
        CheckpointError: the file cannot be read.

    Example:
        >>> from flambeau import models
        >>> net = models.create("resnet18", num_classes=2, width=8)
        >>> net.fc
        Linear(in_features=64, out_features=2, bias=True)
    """
    if name not in _CONSTRUCTORS:
        close = difflib.get_close_matches(name, _CONSTRUCTORS)
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else "models.list() gives all names"
        raise ValueError(f"there is no model {name!r}: {hint}")
    net = _CONSTRUCTORS[name](**sizes)
    if weights is not None:
        net.load_state_dict(weights if isinstance(weights, Mapping) else load(weights))
    return net


def list(pattern: str = "*") -> builtins.list[str]:
    """The names that `create` takes, in alphabetical order.

    Args:
        pattern: with `*` for any letters and `?` for one, as for files.

    Example:
        >>> from flambeau import models
        >>> models.list("resnet?0")
        ['resnet50']
    """
    return sorted(name for name in _CONSTRUCTORS if fnmatchcase(name, pattern))
