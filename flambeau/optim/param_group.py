"""A parameter group: parameters that are updated together, their options, and the state of their updates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import jax
import numpy as np

from flambeau._errors import StateError
from flambeau.core.cell import Cell, Parameter, running
from flambeau.core.transaction import transaction
from flambeau.core.tree import Node, Registry
from flambeau.optim._number import Number, is_number
from flambeau.optim._rule import Layout, Recipe, Rule, Slot, compute, compute_compiled

__all__ = ["ParamGroup"]


class ParamGroup(Node, MutableMapping[str, Any]):
    """One entry of `optimizer.param_groups`: reads and writes as PyTorch's dict of options.

    Floats are cells: outside of transforms they read as Python floats, in a compiled function as the array that stands for
    them, and writing one compiles nothing again. Other values (flags, integers, names) are part of the compiled structure.
    An option that was given as 0, such as a momentum, is left out of the compiled update; setting it brings it in, and
    compiles once more.

    Example:
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> optimizer = fb.optim.SGD(nn.Linear(3, 2).parameters(), lr=0.1)
        >>> for group in optimizer.param_groups:
        ...     group["lr"] *= 0.5
        >>> optimizer.param_groups[0]["lr"]
        0.05
    """

    # `_options` holds "params" (a tuple of Parameters), Cells, tuples of Cells and constants; `_state` the state of one
    # parameter, by its number and a name; `_shared` what the parameters of a cohort have in common, by its first number.
    _registry_names = (*Node._registry_names, "_options", "_shared", "_state")
    _bookkeeping = Node._bookkeeping | {*_registry_names, "_layouts"}

    _options: Registry
    _shared: Registry
    _state: Registry
    _layouts: dict[Any, Layout]

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        group = super().__new__(cls)
        group.__dict__["_layouts"] = {}  # derived from the rest, so copies begin without
        return group

    def __init__(self, recipe: Recipe, params: Sequence[Parameter], options: Mapping[str, Any]) -> None:
        self._recipe = recipe
        self._options["params"] = tuple(params)
        for name, value in options.items():
            self._options[name] = _as_option(value)
        self._cohorts = self._partition([()] * len(params))
        self._prepare()

    # -- the mapping ----------------------------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Any:
        self._require()
        entry = self._options[name]
        if name in ("params", "param_names"):
            return list(entry)
        if isinstance(entry, Number):
            return entry.read(self)
        return tuple(number.read(self) for number in entry) if _holds_numbers(entry) else entry

    def __setitem__(self, name: str, value: Any) -> None:
        self._require()
        if name == "params":
            raise TypeError(
                "the parameters of a group stay what they are: use optimizer.add_param_group for more of them"
            )
        entry = self._options.get(name)
        if isinstance(entry, Number) and is_number(value):
            entry.write(value, self, name)
        elif isinstance(entry, tuple) and _holds_numbers(entry) and _are_numbers(value) and len(value) == len(entry):
            for number, new in zip(entry, value, strict=True):
                number.write(new, self, name)
        elif name not in self._options or type(entry) is not type(value) or entry != value:
            transaction(self, lambda: self._restructure(name, value))

    def __delitem__(self, name: str) -> None:
        self._require()
        if name == "params" or name in self._recipe.options:
            raise TypeError(f"{name!r} is an option that the optimizer needs")
        del self._options[name]

    def __iter__(self) -> Iterator[str]:
        self._require()
        return iter(list(self._options))

    def __len__(self) -> int:
        self._require()
        return len(self._options)

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_"):
            raise AttributeError(f'options are items: write group["{name}"] = ...')
        super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*dir(type(self)), *self.__dict__})

    def __repr__(self) -> str:
        return repr(dict(self))

    def _require(self) -> None:
        """Makes sure that a compiling transform treats the group as its input."""
        if running.frame is not None:
            running.frame.require(self)

    def _restructure(self, name: str, value: Any) -> None:
        self._options[name] = _as_option(value)
        if name in self._recipe.options:
            self._prepare()

    # -- options and state, for the update ------------------------------------------------------------------------------

    @property
    def _params(self) -> tuple[Parameter, ...]:
        return self._options["params"]

    def _rule(self) -> Rule:
        known = ((name, self._options[name]) for name in self._recipe.options)
        return Rule(self._recipe, {name: entry for name, entry in known if not _is_numeric(entry)})

    def _numbers(self) -> dict[str, Any]:
        """The numeric options, as arrays."""
        numbers = {}
        for name in self._recipe.options:
            entry = self._options[name]
            if isinstance(entry, Number):
                numbers[name] = entry.get(self)
            elif _holds_numbers(entry):
                numbers[name] = tuple(number.get(self) for number in entry)
        return numbers

    def _tree(self, members: Sequence[int], arrays: Mapping[int, Any] | None = None) -> dict[Slot, Any]:
        """What optax sees: the parameters of these numbers by their names, or else other arrays in their places."""
        values = [self._params[i].get(self) if arrays is None else arrays[i] for i in members]
        return dict(zip(self._slots(members), values, strict=True))

    def _slots(self, members: Sequence[int]) -> list[Slot]:
        names = self._options.get("param_names")
        return [Slot(names[i] if names else i) for i in members]

    def _places(self, members: Sequence[int], layout: Layout) -> list[tuple[int | None, str]]:
        """Of each leaf of a state the number of the parameter (None: shared by all) and the name."""
        numbers = dict(zip(self._slots(members), members, strict=True))
        return [(None if slot is None else numbers[slot], name) for slot, name in layout.places]

    def _cells(self, cohort: Sequence[int], members: Sequence[int], layout: Layout) -> list[Cell]:
        """The cells of the state of some members of a cohort, in the order of the layout."""
        places = self._places(members, layout)
        return [self._shared[cohort[0], name] if i is None else self._state[i, name] for i, name in places]

    def _partition(self, common: Sequence[Any]) -> tuple[tuple[int, ...], ...]:
        """The parameters in cohorts, whose members have been stepped equally often and so share a count.

        `common` says what each parameter's shared state is. Frozen parameters stand apart, since they get no gradients.
        """
        if not self._recipe.independent:
            return (tuple(range(len(self._params))),)
        cohorts: dict[Any, list[int]] = {}
        for i, parameter in enumerate(self._params):
            cohorts.setdefault((parameter.requires_grad, common[i]), []).append(i)
        return tuple(map(tuple, cohorts.values()))

    def _first_state(self) -> Iterator[tuple[tuple[int, ...], list[tuple[int | None, str]], list[Any]]]:
        """Of each cohort the places and the leaves of the state that it begins with."""
        rule, numbers = self._rule(), self._numbers()
        for cohort in self._cohorts:
            layout, leaves = rule.init(numbers, self._tree(cohort))
            self._layouts[rule, *self._slots(cohort)] = layout
            yield cohort, self._places(cohort, layout), leaves

    def _prepare(self) -> None:
        """Makes the cells of the state that the present options need."""
        stateful = () if self._never_stepped() else {i for i, _ in self._state}
        for cohort, places, leaves in self._first_state():
            for (i, name), leaf in zip(places, leaves, strict=True):
                registry, key = (self._shared, (cohort[0], name)) if i is None else (self._state, (i, name))
                if key in registry:
                    continue
                if key[0] in stateful:
                    raise StateError(
                        f"this change of options needs the state {name!r} from the first step on: make a new optimizer with it"
                    )
                registry[key] = Cell(leaf)

    def _never_stepped(self) -> bool:
        """Whether the state says that there was no step yet; inside of a transform, and without a count, it says nothing."""
        counts = [cell for (_, name), cell in self._shared.items() if name == self._recipe.counter]
        return bool(counts) and running.frame is None and not any(bool(cell.peek()) for cell in counts)

    def _layout(self, rule: Rule, cohort: tuple[int, ...], members: tuple[int, ...]) -> Layout:
        key = (rule, *self._slots(members))
        layout = self._layouts.get(key)
        if layout is None:
            found: list[Layout] = []

            def init(numbers: Any, params: Any) -> Any:
                layout, leaves = rule.init(numbers, params)
                found.append(layout)
                return leaves

            leaves = jax.eval_shape(init, self._numbers(), self._tree(members))
            layout = found[0]
            for (slot, name), leaf in zip(layout.places, leaves, strict=True):
                if slot is None and leaf.shape != self._shared[cohort[0], name].shape:
                    raise StateError(
                        f"the transformation keeps its state {name!r} for all parameters of the group together, so each step "
                        f"needs a gradient for each of them"
                    )
            self._layouts[key] = layout
        return layout

    # -- the update -----------------------------------------------------------------------------------------------------

    def _update(self, grads: dict[int, Any], extra: dict[str, Any]) -> None:
        """Steps the parameters that `grads`, by number, has gradients of; the others keep their values and their state."""
        rule = self._rule()
        work = []
        for cohort in self._cohorts:
            members = tuple(i for i in cohort if i in grads)
            if members:
                home = self._split_off(rule, cohort, members)
                work.append((members, self._layout(rule, home, members), home))
        cells = [self._cells(home, members, layout) for members, layout, home in work]
        states = [
            layout.treedef.unflatten([cell.get(self) for cell in own])
            for (_, layout, _), own in zip(work, cells, strict=True)
        ]
        run = compute_compiled if running.frame is None else compute
        params, states = run(
            rule,
            self._numbers(),
            [self._tree(members) for members, _, _ in work],
            [self._tree(members, grads) for members, _, _ in work],
            states,
            extra,
        )
        for (members, _, _), own, new_params, new_state in zip(work, cells, params, states, strict=True):
            for i, slot in zip(members, self._slots(members), strict=True):
                self._params[i].set(new_params[slot], owner=self, name=str(slot), exposed=False)
            for cell, leaf in zip(own, jax.tree.leaves(new_state), strict=True):
                cell.set(leaf, owner=self, name="state", exposed=False)

    def _split_off(self, rule: Rule, cohort: tuple[int, ...], members: tuple[int, ...]) -> tuple[int, ...]:
        """The cohort that `members` are updated in: one of their own, if the others must not be counted as stepped."""
        if members == cohort or not self._recipe.independent:
            return cohort
        shared = self._layout(rule, cohort, cohort).shared
        if not shared:
            return cohort
        rest = tuple(i for i in cohort if i not in members)
        for part in (members, rest):
            if part[0] != cohort[0]:
                for name in shared:
                    self._shared[part[0], name] = Cell(self._shared[cohort[0], name].get(self))
        self._cohorts = tuple(sorted({*self._cohorts, members, rest} - {cohort}))
        return members

    # -- copies ---------------------------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_layouts"}


def _are_numbers(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and bool(value) and all(map(is_number, value))


def _holds_numbers(entry: Any) -> bool:
    return type(entry) is tuple and bool(entry) and all(isinstance(item, Number) for item in entry)


def _is_numeric(entry: Any) -> bool:
    return isinstance(entry, Number) or _holds_numbers(entry)


def _as_option(value: Any) -> Any:
    """A float, or a tuple of floats, in cells; anything else as it is."""

    def is_float(value: Any) -> bool:
        return is_number(value) and not isinstance(value, (int, np.integer))

    if is_float(value):
        return Number.of(value)
    if _are_numbers(value) and any(map(is_float, value)):
        return tuple(Number.of(number if is_float(number) else float(number)) for number in value)
    return tuple(value) if isinstance(value, list) else value
