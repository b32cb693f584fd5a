"""How a group of parameters is updated: an optax transformation, applied to arrays and to nothing else."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from flambeau.core._rows import grouped
from flambeau.core.structure import fingerprint

__all__ = ["Layout", "Recipe", "Rule", "Slot", "compute", "compute_compiled"]


class Slot(str):
    """The name of a parameter in the tree that optax sees; its class tells it from any other key in a state."""

    __slots__ = ()


Tree = dict[Slot, Any]  # of parameters, or of arrays in their places


class Recipe(NamedTuple):
    """What all groups of an optimizer have in common.

    Args:
        transformation: an optax transformation, or a function that makes one from a group's options.
        options: the names of the options that the function takes.
        independent: whether each parameter is updated as if it were alone, as all of PyTorch's optimizers do it; then one
            that gets no gradient keeps all of its state. Otherwise a group may have state in common, such as a step count.
        counter: of independent parameters, the state that is zero until the first step; without one, there is state from the
            start.
        renamed: PyTorch's names of state, by optax's.
    """

    transformation: Any
    options: tuple[str, ...] = ()
    independent: bool = False
    counter: str = ""
    renamed: tuple[tuple[str, str], ...] = ()


class Layout(NamedTuple):
    """How a state of optax lies in cells: its tree, and of each leaf the parameter (None: all in common) and its name."""

    treedef: Any
    places: tuple[tuple[Slot | None, str], ...]

    @property
    def shared(self) -> tuple[str, ...]:
        return tuple(name for slot, name in self.places if slot is None)


class Rule:
    """A recipe with those options of a group that are constants; equal for groups that one compiled update serves."""

    __slots__ = ("constants", "key", "recipe")

    def __init__(self, recipe: Recipe, constants: dict[str, Any]) -> None:
        self.recipe = recipe
        self.constants = constants
        self.key: Hashable = fingerprint((recipe, constants))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rule) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def build(self, numbers: dict[str, Any], params: Tree) -> optax.GradientTransformationExtraArgs:
        """The transformation, with the numeric options in the precision that suits the parameters."""
        made = self.recipe.transformation
        if not isinstance(made, optax.GradientTransformation):
            made = made(**self.constants, **_cast(numbers, _precision(params)))
        if not isinstance(made, optax.GradientTransformation):
            raise TypeError(f"expected a function that makes an optax transformation, it made a {type(made).__name__}")
        return optax.with_extra_args_support(made)

    def init(self, numbers: dict[str, Any], params: Tree) -> tuple[Layout, list[Any]]:
        """The first state, as its layout and its leaves."""
        state = self.build(numbers, params).init(params)
        found, treedef = jax.tree_util.tree_flatten_with_path(state)
        return Layout(treedef, tuple(self._place(path) for path, _ in found)), [leaf for _, leaf in found]

    def _place(self, path: Sequence[Any]) -> tuple[Slot | None, str]:
        parts = [_part(key) for key in path]
        slot = next((part for part in parts if isinstance(part, Slot)), None)
        names = [str(part) for part in parts if not isinstance(part, Slot)]
        if self.recipe.independent:
            return slot, dict(self.recipe.renamed).get(names[-1], names[-1])
        return slot, ".".join(names)


def _part(key: Any) -> Any:
    """What a key of a path says, of whichever kind it is."""
    return next(getattr(key, name) for name in ("key", "name", "idx") if hasattr(key, name))


def compute(
    rule: Rule,
    numbers: dict[str, Any],
    params: Sequence[Tree],
    grads: Sequence[Tree],
    states: Sequence[Any],
    extra: dict[str, Any],
) -> tuple[list[Tree], list[Any]]:
    """The new parameters and states of several sets of parameters. Each array keeps its dtype.

    Options are float64 while JAX runs with x64, and take the precision of the parameters; those of less than 32 bits are
    updated in float32, and rounded once at the end.
    """
    update = _update_alike if rule.recipe.independent else _update
    found = [update(rule, numbers, *each, extra) for each in zip(params, grads, states, strict=True)]
    return [new for new, _ in found], [state for _, state in found]


def _update(rule: Rule, numbers: Any, params: Tree, grads: Tree, state: Any, extra: Any) -> tuple[Tree, Any]:
    wide = {slot: _widened(array) for slot, array in params.items()}
    grads = {slot: _widened(array) for slot, array in grads.items()}
    updates, new = rule.build(numbers, params).update(grads, state, wide, **extra)
    return jax.tree.map(lambda p, w, u: _like(p, w + u), params, wide, updates), jax.tree.map(_like, state, new)


_update_group = functools.partial(jax.jit, static_argnums=0)(_update)


def _update_alike(rule: Rule, numbers: Any, params: Tree, grads: Tree, state: Any, extra: Any) -> tuple[Tree, Any]:
    """The same for independent parameters, in groups that are alike: JAX traces and lowers one update for all of them."""
    groups, parts = _alike(params), []
    for group in groups:
        given = ({Slot(i): tree[slot] for i, slot in enumerate(group)} for tree in (params, grads))
        parts.append(_update_group(rule, numbers, *given, _of_group(state, group), extra))
    new = {slot: part[Slot(i)] for group, (part, _) in zip(groups, parts, strict=True) for i, slot in enumerate(group)}
    return new, _joined([state for _, state in parts], groups)


def _alike(params: Tree) -> list[Sequence[Slot]]:
    """Their names, a few of the same shape and dtype together."""
    kinds: dict[Hashable, list[Slot]] = {}
    for slot, array in params.items():
        kinds.setdefault((array.shape, array.dtype), []).append(slot)
    return [group for slots in kinds.values() for group in grouped(slots)]


def _of_group(state: Any, group: Sequence[Slot]) -> Any:
    """The state of a group: what is by parameter of these alone, by their numbers; and what all have in common."""

    def part(held: Any) -> Any:
        return {Slot(i): held[slot] for i, slot in enumerate(group) if slot in held} if _is_by_slot(held) else held

    return jax.tree.map(part, state, is_leaf=_is_by_slot)


def _joined(states: Sequence[Any], groups: Sequence[Sequence[Slot]]) -> Any:
    """The state of all, from that of the groups. What they have in common is the same for each."""

    def whole(*parts: Any) -> Any:
        if not _is_by_slot(parts[0]):
            return parts[0]
        named = (
            (held, Slot(i), slot) for held, group in zip(parts, groups, strict=True) for i, slot in enumerate(group)
        )
        return {slot: held[number] for held, number, slot in named if number in held}

    return jax.tree.map(whole, *states, is_leaf=_is_by_slot)


def _is_by_slot(held: Any) -> bool:
    return isinstance(held, dict) and all(isinstance(key, Slot) for key in held)


compute_compiled = functools.partial(jax.jit, static_argnums=0)(compute)


def _precision(params: Tree) -> Any:
    """The widest dtype among the parameters, and at least float32."""
    dtypes = {array.dtype for array in params.values()}
    return functools.reduce(jnp.promote_types, dtypes, jnp.dtype(jnp.float32))


def _cast(numbers: dict[str, Any], dtype: Any) -> dict[str, Any]:
    return jax.tree.map(lambda number: lax.convert_element_type(number, dtype), numbers)


def _widened(array: Any) -> Any:
    return array if array.dtype.itemsize >= 4 else lax.convert_element_type(array, jnp.float32)


def _like(old: Any, new: Any) -> Any:
    return new if getattr(new, "dtype", None) == old.dtype else lax.convert_element_type(new, old.dtype)
