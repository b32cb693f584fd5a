"""Modules that hold modules in an order or by name."""

from __future__ import annotations

import itertools
import operator
from collections import OrderedDict
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from typing import Any, Self, cast, overload

from flambeau.core import raw
from flambeau.core.module import Module
from flambeau.nn._missing import missing_index, missing_key, pairs_of

__all__ = ["ModuleDict", "ModuleList", "Sequential"]


class _Ordered(Module):
    """What `Sequential` and `ModuleList` have in common: positions, and names that are numbers where none are given."""

    def _name_at(self, index: int) -> str:
        """The name of the module at a position, which may count from the end."""
        index = operator.index(index)
        if not -len(self) <= index < len(self):
            raise missing_index(self, index)
        return next(itertools.islice(self._modules, index % len(self), None))

    def _put_in(self, index: int, module: Module) -> None:
        """Appends, and then moves the last one to its place, the others up."""
        size, index = len(self), operator.index(index)
        if not -size <= index <= size:
            raise missing_index(self, index)
        names = [str(i) for i in range(index + size if index < 0 else index, size)]
        if not self._modules.keys() >= set(names):
            raise KeyError(f"insert moves numbered modules up by one, but these are named {', '.join(self._modules)}")
        self.append(module)
        moved = [self._modules[name] for name in (str(size), *names)]
        self._modules.update(zip([*names, str(size)], moved, strict=True))

    def __setitem__(self, index: int, module: Module | None) -> None:
        setattr(self, self._name_at(index), module)

    def __delitem__(self, index: int | slice) -> None:
        names = list(self._modules)[index] if isinstance(index, slice) else [self._name_at(index)]
        for name in names:
            delattr(self, name)
        # What is left is named 0, 1, ... again, as in PyTorch even where it had other names.
        left = list(self._modules.values())
        self._modules.clear()
        self._modules.update((str(i), module) for i, module in enumerate(left))

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(cast("ValuesView[Module]", self._modules.values()))

    def append(self, module: Module) -> Self:
        """Adds a module at the end, named by its position."""
        self.add_module(str(len(self)), module)
        return self

    def pop(self, key: int | slice) -> Any:
        """Takes out and returns the module at a position, or those of a slice in a container of the same class."""
        taken = cast("Any", self)[key]
        del self[key]
        return taken


class Sequential(_Ordered):
    """A chain of modules: each is called with what the one before it returned.

    Unlike PyTorch's, `insert` raises a TypeError for what is no module, as `append` does.

    Args:
        args: the modules; or one `OrderedDict` of modules, whose keys become their names.

    Shape:
        input as the first module takes it, result as the last one gives it.

    Raises:
        TypeError: something that is no module.

    Example:
        >>> from flambeau import nn
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
        >>> net + nn.Sequential(nn.Linear(8, 2))
        Sequential(
          (0): Linear(in_features=4, out_features=8, bias=True)
          (1): ReLU()
          (2): Linear(in_features=8, out_features=2, bias=True)
        )
        >>> net[-1], len(net[:1])
        (ReLU(), 1)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.Sequential.html
    """

    _scan: tuple[Any, ...] | None = None  # the options of `scan_layers`

    @overload
    def __init__(self, *args: Module) -> None: ...

    @overload
    def __init__(self, arg: OrderedDict[str, Module], /) -> None: ...

    def __init__(self, *args: Any) -> None:
        super().__init__()
        if len(args) == 1 and isinstance(args[0], OrderedDict):
            for name, module in args[0].items():
                self.add_module(name, module)
        else:
            self.extend(args)

    def forward(self, input: Any) -> Any:
        if self._scan is not None:
            return raw.transform("scan_layers")(self, input, **dict(self._scan))
        for module in self:
            input = module(input)
        return input

    def scanned(self, mode: bool = True, *, checkpoint: bool = False, unroll: int | bool = 1) -> Self:
        """Has compiled functions run neighbours of one structure as a loop that is traced and compiled once.

        Names, parameters and everything else stay what they are; see `fb.scan_layers`.

        Args:
            mode: whether to do so.
            checkpoint: whether the backward pass computes a layer's intermediate values again, rather than keep them.
            unroll: how many layers go into one iteration of the loop; True: no loop, but traced once all the same.

        Example:
            >>> import jax.numpy as jnp
            >>> import flambeau as fb
            >>> from flambeau import nn
            >>> net = nn.Sequential(*(nn.Linear(4, 4) for _ in range(12))).scanned()
            >>> fb.jit(net)(jnp.ones((2, 4))).shape
            (2, 4)
        """
        self._scan = (("checkpoint", checkpoint), ("unroll", unroll)) if mode else None
        return self

    @overload
    def __getitem__(self, idx: int) -> Module: ...

    @overload
    def __getitem__(self, idx: slice) -> Self: ...

    def __getitem__(self, idx: int | slice) -> Module | Self:
        if isinstance(idx, slice):
            return type(self)(OrderedDict(list(self._modules.items())[idx]))
        return self._modules[self._name_at(idx)]

    def insert(self, index: int, module: Module) -> Self:
        """Puts a module at a position, before what stands there.

        Raises:
            IndexError: there is no such position.
            KeyError: the modules behind it are not numbered, but named.
        """
        self._put_in(index, module)
        return self

    def extend(self, sequential: Iterable[Module]) -> Self:
        """Adds modules at the end, named by their positions."""
        for module in list(sequential):
            self.append(module)
        return self

    def __add__(self, other: Sequential) -> Sequential:
        return Sequential().extend(self).extend(_sequential(other))

    def __iadd__(self, other: Sequential) -> Self:
        return self.extend(_sequential(other))

    def __mul__(self, other: int) -> Sequential:
        return Sequential(*list(self) * _factor(other))

    def __rmul__(self, other: int) -> Sequential:
        return self * other

    def __imul__(self, other: int) -> Self:
        return self.extend(list(self) * (_factor(other) - 1))


def _sequential(other: Any) -> Sequential:
    if not isinstance(other, Sequential):
        raise ValueError(f"only another Sequential can be added to a Sequential, got {type(other).__name__}")
    return other


def _factor(other: Any) -> int:
    if not isinstance(other, int):
        raise TypeError(f"a Sequential can be multiplied by an int, got {type(other).__name__}")
    if other <= 0:
        raise ValueError(f"a Sequential can be multiplied by a positive int, got {other}")
    return other


class ModuleList(_Ordered):
    """A list of modules. It has no `forward`: the module that holds it calls them.

    Unlike PyTorch's, `insert` takes a negative index as Python's list does, and refuses one behind the end and what is no
    module.

    Args:
        modules: the modules.

    Raises:
        TypeError: something that is no module.

    Example:
        >>> from flambeau import nn
        >>> layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        >>> layers.append(nn.ReLU())
        ModuleList(
          (0-2): 3 x Linear(in_features=8, out_features=8, bias=True)
          (3): ReLU()
        )
        >>> layers[7]
        Traceback (most recent call last):
        IndexError: index 7 is out of range: this ModuleList has 4 entries, 0 to 3

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.ModuleList.html
    """

    def __init__(self, modules: Iterable[Module] | None = None) -> None:
        super().__init__()
        if modules is not None:
            self.extend(modules)

    @overload
    def __getitem__(self, idx: int) -> Module: ...

    @overload
    def __getitem__(self, idx: slice) -> Self: ...

    def __getitem__(self, idx: int | slice) -> Module | Self:
        if isinstance(idx, slice):
            return type(self)(list(self)[idx])
        return self._modules[self._name_at(idx)]

    def insert(self, index: int, module: Module) -> None:
        """Puts a module at a position, before what stands there.

        Raises:
            IndexError: there is no such position.
        """
        self._put_in(index, module)

    def extend(self, modules: Iterable[Module]) -> Self:
        """Adds modules at the end.

        Raises:
            TypeError: `modules` cannot be iterated over.
        """
        if not isinstance(modules, Iterable):
            raise TypeError(f"ModuleList.extend should be called with an iterable, but got {type(modules).__name__}")
        for module in list(modules):
            self.append(module)
        return self

    def __add__(self, other: Iterable[Module]) -> ModuleList:
        return ModuleList(itertools.chain(self, other))

    def __iadd__(self, modules: Iterable[Module]) -> Self:
        return self.extend(modules)

    def __repr__(self) -> str:
        lines, start = [], 0
        for text, same in itertools.groupby(map(repr, self)):
            count = len(list(same))
            place = f"({start}): " if count == 1 else f"({start}-{start + count - 1}): {count} x "
            lines.append("\n  " + (place + text).replace("\n", "\n  "))
            start += count
        return f"{self._get_name()}({''.join(lines)}{chr(10) if lines else ''})"


class ModuleDict(Module):
    """A dict of modules, in the order of insertion. It has no `forward`: the module that holds it calls them.

    Args:
        modules: a mapping of names to modules, or pairs of both.

    Raises:
        TypeError: a key is no string, or a value no module.
        RegistrationError: a key is empty, has a dot, or is the name of an attribute of ModuleDict, such as `keys`.

    Example:
        >>> from flambeau import nn
        >>> activations = nn.ModuleDict([["lrelu", nn.LeakyReLU()], ["relu", nn.ReLU()]])
        >>> activations["relu"]
        ReLU()
        >>> activations["rellu"]
        Traceback (most recent call last):
        flambeau.nn._missing.MissingKeyError: 'rellu' is not in this ModuleDict, which has 'lrelu', 'relu'. Did you mean: 'relu'?

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.ModuleDict.html
    """

    def __init__(self, modules: Mapping[str, Module] | ModuleDict | Iterable[Any] | None = None) -> None:
        super().__init__()
        if modules is not None:
            self.update(modules)

    def __getitem__(self, key: str) -> Module:
        if key not in self._modules:
            raise missing_key(self, key)
        return self._modules[key]

    def __setitem__(self, key: str, module: Module | None) -> None:
        self.add_module(key, module)

    def __delitem__(self, key: str) -> None:
        if key not in self._modules:
            raise missing_key(self, key)
        del self._modules[key]

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __contains__(self, key: object) -> bool:
        return key in self._modules

    def clear(self) -> None:
        """Takes out all modules."""
        self._modules.clear()

    def pop(self, key: str) -> Module:
        """Takes out and returns the module of a name."""
        module = self[key]
        del self[key]
        return module

    def keys(self) -> KeysView[str]:
        """The names."""
        return self._modules.keys()

    def items(self) -> ItemsView[str, Module]:
        """The names and modules."""
        return self._modules.items()

    def values(self) -> ValuesView[Module]:
        """The modules."""
        return self._modules.values()

    def update(self, modules: Mapping[str, Module] | ModuleDict | Iterable[Any]) -> None:
        """Adds modules, in the place of those that have their names, from a mapping or from pairs.

        Raises:
            TypeError: `modules` is neither.
            ValueError: a pair has another length.
        """
        for key, module in modules.items() if isinstance(modules, ModuleDict) else pairs_of(modules, self):
            self[key] = module
