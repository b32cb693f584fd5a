"""Every public name of torch.nn and torch.optim is here, or in docs/differences.md with the reason."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import flambeau

torch = pytest.importorskip("torch")

DIFFERENCES = (Path(__file__).parents[2] / "docs" / "differences.md").read_text(encoding="utf-8")
# What torch's files import for themselves; it is no part of what they offer.
BORROWED = {
    "common_types",
    "factory_kwargs",
    "grad",
    "parameter",
    "assert_int_or_pair",
    "boolean_dispatch",
    "handle_torch_function",
    "has_torch_function",
    "has_torch_function_unary",
    "has_torch_function_variadic",
}


def names_of(module: Any) -> list[str]:
    """The public names that a module of torch defines, rather than imports."""
    listed = getattr(module, "__all__", None)
    if listed is not None:
        return sorted(listed)
    found = [name for name, value in vars(module).items() if not name.startswith("_") and _is_own(value)]
    return sorted(set(found) - BORROWED)


def _is_own(value: Any) -> bool:
    if inspect.ismodule(value):
        return value.__name__.startswith(("torch.nn.", "torch.optim."))
    return callable(value) and str(getattr(value, "__module__", "torch")).startswith(
        ("torch.nn", "torch.optim", "torch._C")
    )


UTILITIES = [f"nn.utils.{name}" for name in ("rnn", "parametrize", "parametrizations", "prune")]


OPTIMIZERS = ["optim", "optim.lr_scheduler", "optim.swa_utils"]


@pytest.mark.parametrize("name", ["nn", "nn.functional", "nn.init", "nn.utils", *UTILITIES, *OPTIMIZERS])
def test_every_name_is_here_or_explained(name: str) -> None:
    theirs = names_of(importlib.import_module(f"torch.{name}"))
    ours = dir(importlib.import_module(f"flambeau.{name}"))
    explained = set(re.findall(rf"`{re.escape(name)}\.(\w+)`", DIFFERENCES))
    missing = [public for public in theirs if public not in ours and public not in explained]
    assert len(theirs) > 2
    assert not missing, f"flambeau.{name} lacks {', '.join(missing)}"


def test_every_module_class_is_here() -> None:
    modules = importlib.import_module("torch.nn.modules").__all__
    assert len(modules) > 150
    missing = [name for name in modules if name not in dir(flambeau.nn) and f"`nn.{name}`" not in DIFFERENCES]
    assert not missing


@pytest.mark.parametrize("name", ["nn", "nn.functional", "nn.init", "nn.utils", *UTILITIES, *OPTIMIZERS])
def test_arguments_are_torchs(name: str) -> None:
    """Names, order and defaults of the arguments of all that both have; ours may have more behind them."""
    wrong = []
    for public in names_of(importlib.import_module(f"torch.{name}")):
        theirs = getattr(importlib.import_module(f"torch.{name}"), public)
        mine = vars(importlib.import_module(f"flambeau.{name}")).get(public)
        if mine is None or not callable(theirs) or not callable(mine) or f"`{name}.{public}(" in DIFFERENCES:
            continue
        expected, got = _arguments(theirs), _arguments(mine)
        if expected is not None and got is not None and got[: len(expected)] != expected:
            wrong.append(f"{public}{expected} is {public}{got}")
    assert not wrong, "\n".join(wrong)


def _arguments(function: Any) -> list[Any] | None:
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # a function of C has none
        return None
    given = [parameter for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    return [(parameter.name, _default(parameter)) for parameter in given]


def _default(parameter: inspect.Parameter) -> Any:
    """The default where it is a plain value: a function's is another function here."""
    plain = isinstance(parameter.default, (bool, int, float, str, tuple, type(None)))
    return parameter.default if plain else parameter.default is parameter.empty
