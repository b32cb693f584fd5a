"""`Optimizer`: parameter groups, options, state and `step`, over any transformation of optax."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import jax
import numpy as np
import optax

from flambeau._errors import DtypeError, StateDictError
from flambeau.core.cell import Cell, Parameter, owner_of, running
from flambeau.core.module import Module
from flambeau.core.transaction import transaction
from flambeau.core.tree import Node
from flambeau.optim._gradients import HOW_TO_STEP, sort_gradients
from flambeau.optim._rule import Recipe
from flambeau.optim._saving import load_group, save_group
from flambeau.optim.param_group import ParamGroup

__all__ = ["Optimizer"]

Params = Iterable[Any]


class Optimizer(Node):
    """Base class of all optimizers; by itself, one over any optax transformation.

    Args:
        params: parameters, as `net.parameters()` gives them; pairs of names and parameters, as `net.named_parameters()`;
            arrays read from a module (`net.fc.weight`); or dicts with "params" and options of their own, the parameter groups.
        transformation: an `optax.GradientTransformation`; or a function that makes one, such as `optax.lion`, whose arguments
            then are options of the groups.
        options: what `transformation` is called with; a group may have others. A float can be changed at any time through
            `param_groups` without compiling anything again.

    What PyTorch has and differs: `step` takes the gradients. A parameter that gets none keeps its value and its state. optax
    sees each group as a dict of arrays by parameter name (or number), so masks by name work; state that the transformation
    keeps for all of a group together, such as a step count, moves on when any of them is stepped. PyTorch's own optimizers
    count for each parameter.

    Raises:
        TypeError: `params` or `transformation` is none of the above.
        ValueError: there are no parameters, or one is there twice.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> net = nn.Linear(2, 1)
        >>> optimizer = fb.optim.Optimizer(net.parameters(), optax.lion, learning_rate=0.1)
        >>> net.bias = jnp.zeros(1)
        >>> grads = fb.grad(lambda net: net(jnp.ones((1, 2))).sum())(net)
        >>> optimizer.step(grads)
        >>> print(net.bias)
        [-0.1]

    Source: https://docs.pytorch.org/docs/2.13/optim.html
    """

    # What a subclass says of its transformation; see Recipe.
    _independent: ClassVar[bool] = False
    _counter: ClassVar[str] = ""
    _renamed: ClassVar[Mapping[str, str]] = MappingProxyType({})

    defaults: dict[str, Any]

    def __init__(self, params: Params, transformation: Any, **options: Any) -> None:
        if isinstance(transformation, optax.GradientTransformation):
            if options:
                raise TypeError(
                    f"{type(self).__name__}: {next(iter(options))!r} is an option of no one, since the transformation is made "
                    f"already: pass the function that makes it, as in Optimizer(params, optax.lion, learning_rate=1e-3)"
                )
        elif not callable(transformation):
            raise TypeError(
                f"{type(self).__name__}: expected an optax transformation, or a function that makes one, "
                f"got {type(transformation).__name__}"
            )
        renamed = tuple(self._renamed.items())
        self._recipe = Recipe(transformation, tuple(options), self._independent, self._counter, renamed)
        self.defaults = self._check_options(options)
        self._groups: tuple[ParamGroup, ...] = ()
        for group in _as_groups(type(self).__name__, params):
            self.add_param_group(group)

    def _check_options(self, options: dict[str, Any]) -> dict[str, Any]:
        """The options of a group (or the defaults) as they are kept; raises for values that make no sense."""
        return options

    # -- groups ---------------------------------------------------------------------------------------------------------

    @property
    def param_groups(self) -> tuple[ParamGroup, ...]:
        """The groups, each a dict of options as in PyTorch: `optimizer.param_groups[0]["lr"] = 1e-4`.

        A tuple, since a list would suggest that what is appended to it is optimized: that is what `add_param_group` is for.
        """
        return self._groups

    def add_param_group(self, param_group: Mapping[str, Any]) -> None:
        """Adds parameters with options of their own, such as layers that are unfrozen during training.

        Args:
            param_group: "params" as the optimizer takes them, and those options that differ from the defaults.

        Raises:
            TypeError: it is no dict, or what is in it are no parameters.
            ValueError: it has no parameters, or some that the optimizer has already.
        """
        if not isinstance(param_group, Mapping):
            raise TypeError(f"param_group must be a dict, but got {type(param_group).__name__}")
        given = dict(param_group)
        names, params = _read_params(given.pop("params", ()))
        self._check_new(names, params)
        self._check_known(given)
        options = self._check_options({**self.defaults, **given})
        if names:
            options["param_names"] = tuple(names)
        self._groups = (*self._groups, ParamGroup(self._recipe, params, options))

    def _check_new(self, names: list[str], params: list[Parameter]) -> None:
        if not params:
            raise ValueError("optimizer got an empty parameter list")
        if len(set(params)) != len(params):
            raise ValueError("optimizer contains a parameter group with duplicate parameters")
        for group in self._groups:
            if not set(params).isdisjoint(group["params"]):
                raise ValueError("some parameters appear in more than one parameter group")
            if bool(names) != ("param_names" in group):
                raise ValueError(
                    f"all optimizer param groups should be with/without names. cannot add param group "
                    f"{'with' if names else 'without'} names to the optimizer"
                )
        known = [name for group in self._groups for name in group.get("param_names", ())] + names
        twice = [name for name in names if known.count(name) > 1]
        if twice:
            raise ValueError(f"two parameters are named {twice[0]!r}: tell them apart by named_parameters(prefix=...)")

    def _check_known(self, given: dict[str, Any]) -> None:
        """A group may carry anything, as in PyTorch, but not an argument of optax's function that nobody would pass on."""
        made = self._recipe.transformation
        if isinstance(made, optax.GradientTransformation):
            return
        unknown = [name for name in given if name not in self.defaults and name in inspect.signature(made).parameters]
        if unknown:
            raise TypeError(f"{unknown[0]!r} is an option of one group alone: give the optimizer a default of it too")

    # -- the step -------------------------------------------------------------------------------------------------------

    def step(self, grads: Any = None, **extra: Any) -> None:
        """Updates the parameters once.

        Args:
            grads: what `fb.grad` or `fb.value_and_grad` gave with respect to a module, or a tuple of such; a dict by name, if the
                optimizer was made from named parameters; or a list in the order of the parameters, None where there is none.
                Gradients of other parameters are left aside.
            extra: arrays that the transformation wants besides, such as `value=loss` of `optax.contrib.reduce_on_plateau`.

        Raises:
            TypeError: no gradients are given, or a function is.
            ValueError: none of the gradients belongs to this optimizer.
            ShapeError, DtypeError: a gradient does not fit its parameter.
        """
        if grads is None or callable(grads) or "closure" in extra:
            what = "a closure" if grads is not None or extra else "nothing"
            raise TypeError(f"{type(self).__name__}.step takes the gradients, got {what}: {HOW_TO_STEP}")
        if extra and self._independent:
            raise TypeError(f"{type(self).__name__}.step() got an unexpected keyword argument '{next(iter(extra))}'")
        if running.frame is None:
            transaction(self, lambda: self._step(grads, extra))
        else:
            running.frame.require(self)
            self._step(grads, extra)

    def _step(self, grads: Any, extra: dict[str, Any]) -> None:
        groups = self._groups
        for group, own in zip(groups, sort_gradients(groups, grads), strict=True):
            group._update(own, extra)

    def _was_never_stepped(self) -> bool:
        """Whether the state says that there was no step yet; some optimizers keep none that does."""
        return all(group._never_stepped() for group in self._groups)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Does nothing: gradients are values that a transform returns, and do not pile up on parameters.

        It is here so that a training loop written for PyTorch runs.
        """

    # -- state ----------------------------------------------------------------------------------------------------------

    @property
    def state(self) -> Mapping[Parameter, Mapping[str, jax.Array]]:
        """The state of each parameter that has been stepped, by names such as "exp_avg". A view: nothing can be set in it.

        In a compiled function nothing is known of steps: there, each parameter has what it would begin with.
        """
        return MappingProxyType(
            {
                group["params"][i]: MappingProxyType(entry)
                for group in self._groups
                for i, entry in save_group(group)[0].items()
            }
        )

    def state_dict(self) -> dict[str, Any]:
        """State and options, in PyTorch's layout.

        Returns:
            `{"state": {0: {"step": ..., "exp_avg": ...}, ...}, "param_groups": [{"lr": ..., "params": [0, 1]}, ...]}`, where
            parameters are numbered through all groups. Those that were never stepped have no state; in a compiled function,
            which cannot know, the one that they would begin with. What an optax transformation keeps for all of a group
            together is in a third entry, `"shared"`: a list with a dict for each group.

        Source: https://docs.pytorch.org/docs/2.13/generated/torch.optim.Optimizer.state_dict.html
        """
        state: dict[int, dict[str, Any]] = {}
        groups: list[dict[str, Any]] = []
        shared: list[dict[str, Any]] = []
        start = 0
        for group in self._groups:
            own, common = save_group(group)
            state.update({start + i: entry for i, entry in own.items()})
            shared.append(common)
            count = len(group["params"])
            groups.append({**group, "params": list(range(start, start + count))})
            start += count
        return {"state": state, "param_groups": groups, **({"shared": shared} if any(shared) else {})}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes state and options back from `state_dict()`, or from that of PyTorch's optimizer of the same name.

        Args:
            state_dict: values may be arrays of JAX, numpy or, on the CPU, torch.

        Raises:
            ValueError: it has other groups, or other numbers of parameters in them.
            StateDictError: its state does not fit; the message lists everything, and the optimizer is as it was.

        Source: https://docs.pytorch.org/docs/2.13/generated/torch.optim.Optimizer.load_state_dict.html
        """
        transaction(self, lambda: self._load(state_dict))

    def _load(self, state_dict: Mapping[str, Any]) -> None:
        groups, saved_groups = self._groups, state_dict["param_groups"]
        if len(groups) != len(saved_groups):
            raise ValueError(
                f"loaded state dict has a different number of parameter groups: {len(saved_groups)}, not {len(groups)}"
            )
        sizes = [
            (len(group["params"]), len(saved["params"])) for group, saved in zip(groups, saved_groups, strict=True)
        ]
        if any(own != other for own, other in sizes):
            raise ValueError(
                f"loaded state dict contains a parameter group that doesn't match the size of optimizer's group: "
                f"{[other for _, other in sizes]}, not {[own for own, _ in sizes]}"
            )
        state, errors = state_dict["state"], []
        shared = state_dict.get("shared", [{}] * len(groups))
        for group, saved, common in zip(groups, saved_groups, shared, strict=True):
            for name, value in saved.items():
                if name != "params":
                    group[name] = value
            load_group(group, saved["params"], state, common, errors)
        if errors:
            lines = "\n\t".join(errors)
            raise StateDictError(f"Error(s) in loading state_dict for {type(self).__name__}:\n\t{lines}")

    def __repr__(self) -> str:
        groups = [
            "".join(
                [
                    f"Parameter Group {i}\n",
                    *(f"    {name}: {group[name]}\n" for name in sorted(group) if name != "params"),
                ]
            )
            for i, group in enumerate(self._groups)
        ]
        return f"{type(self).__name__} (\n" + "\n".join(groups) + ")"


def _as_groups(optimizer: str, params: Any) -> list[Any]:
    if isinstance(params, (Module, Cell, jax.Array, np.ndarray, Mapping, str)) or not isinstance(params, Iterable):
        hint = ": pass its parameters()" if isinstance(params, Module) else ""
        raise TypeError(
            f"{optimizer}: params argument given to the optimizer should be an iterable of Parameters or dicts, "
            f"but got {type(params).__name__}{hint}"
        )
    groups = _ordered(params)
    if not groups:
        raise ValueError(f"{optimizer}: optimizer got an empty parameter list")
    return groups if isinstance(groups[0], Mapping) else [{"params": groups}]


def _ordered(params: Any) -> list[Any]:
    if isinstance(params, (set, frozenset)):
        raise TypeError(
            "optimizer parameters need to be organized in ordered collections, but the order of a set changes between runs. "
            "Please use a list instead."
        )
    return list(params)


def _read_params(params: Any) -> tuple[list[str], list[Parameter]]:
    """The names, if there are any, and the Parameters of one group."""
    items = [params] if isinstance(params, (Parameter, jax.Array)) else _ordered(params)
    names = [item[0] for item in items if isinstance(item, tuple)]
    if names and len(names) != len(items):
        raise ValueError("all optimizer params should be with/without names. Some param names are missing")
    return names, [_read_param(item[1] if isinstance(item, tuple) else item) for item in items]


def _read_param(item: Any) -> Parameter:
    found = owner_of(item) if isinstance(item, jax.Array) else item
    if not isinstance(found, Parameter):
        what = "an array that belongs to no Parameter, or not any more" if found is None else type(found).__name__
        raise TypeError(f"optimizer can only optimize Parameters, but one of the params is {what}")
    if np.issubdtype(found.dtype, np.complexfloating):
        raise DtypeError(
            f"optimizers take real parameters, got one of {found.dtype}: hold its real and imaginary parts"
        )
    return found
