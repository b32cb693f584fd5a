"""Parametrizations: a parameter that is computed from others each time it is read, by modules of one's own.

`register_parametrization(layer, "weight", Symmetric())` moves the parameter to `layer.parametrizations.weight.original` and
gives the layer a class whose `weight` is a property. All layers of one class with the same names parametrized share that
class, so what is compiled for one of them serves the others too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp

from flambeau._errors import ShapeError
from flambeau.core.cell import Buffer, Cell, Parameter, fitting, owner_of
from flambeau.core.module import Module
from flambeau.core.suggest import suggestion
from flambeau.core.transaction import transaction
from flambeau.nn.container import ModuleDict, ModuleList
from flambeau.nn.functional._checks import describe
from flambeau.nn.utils._parametrization_cache import caching, value_of
from flambeau.nn.utils._reparametrize import check_made, check_outside

__all__ = [
    "ParametrizationList",
    "cached",
    "is_parametrized",
    "register_parametrization",
    "remove_parametrizations",
    "transfer_parametrizations_and_params",
    "type_before_parametrizations",
]

ModuleT = TypeVar("ModuleT", bound=Module)


def cached() -> AbstractContextManager[None]:
    """A context in which a parametrized attribute is computed once, when it is first read, and kept until the end.

    What a transform (`fb.jit`, `fb.grad`) runs computes it anew, once for each call of the transform, so that gradients reach
    the originals. A value is also computed anew when what it is computed from was changed. PyTorch does neither. Raw
    transforms of JAX inside of the block compute it at each reading.

    A block around a compiled call makes a structure of its own, to compile for; inside of the compiled function it costs
    nothing.

    Raises:
        StateError: what is read inside of a compiled function writes to its buffers, and the block began outside of it.

    Example:
        >>> from flambeau import nn
        >>> from flambeau.nn.utils import parametrizations, parametrize
        >>> layer = parametrizations.weight_norm(nn.Linear(2, 3))
        >>> layer.weight is layer.weight
        False
        >>> with parametrize.cached():
        ...     layer.weight is layer.weight
        True

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.parametrize.cached.html
    """
    return caching()


class ParametrizationList(ModuleList):
    """The parametrizations of one attribute, and the parameters or buffers that it is computed from.

    It stands at `module.parametrizations.<name>`; `register_parametrization` makes it. What the first `right_inverse` gives
    is held as `original`, or as `original0`, `original1`, ... where it gives several arrays.

    Args:
        modules: the parametrizations, at least one; the last one registered comes last.
        original: the parameter or buffer.
        unsafe: whether they may give another shape or dtype than the original has.

    Raises:
        ValueError: no modules, or a parametrization gives what does not fit.

    Example:
        >>> from flambeau import nn
        >>> layer = nn.utils.parametrizations.weight_norm(nn.Linear(2, 3))
        >>> layer.parametrizations.weight, layer.parametrizations.weight.original1.shape
        (ParametrizationList(
          (0): _WeightNorm()
        ), (3, 2))

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.parametrize.ParametrizationList.html
    """

    unsafe: bool
    is_tensor: bool
    ntensors: int

    def __init__(
        self, modules: Sequence[Module], original: Parameter | Buffer | jax.Array, unsafe: bool = False
    ) -> None:
        if len(modules) == 0:
            raise ValueError("ParametrizationList requires one or more modules.")
        super().__init__(modules)
        self.unsafe = unsafe
        cell = original if isinstance(original, Cell) else owner_of(original) or Buffer(original)
        wanted = jax.ShapeDtypeStruct(cell.shape, cell.dtype)
        value = cell.get()
        for module in reversed(list(self)):
            value = _inverted(module, value)
        self.is_tensor = isinstance(value, jax.Array)
        self.ntensors = 1 if self.is_tensor else len(_several(value))
        if isinstance(value, jax.Array):
            _check_dtype(value, wanted, "what right_inverse gives where it gives one array")
            # The object stays, so that an optimizer which has it goes on with it.
            cell.set(value, owner=self, name="original")
            _register(self, "original", cell)
        else:
            for i, each in enumerate(value):
                trainable = isinstance(cell, Parameter) and cell.requires_grad
                _register(self, f"original{i}", Parameter(each, trainable) if isinstance(cell, Parameter) else each)
        if not unsafe:
            _check_fits(self(), wanted, "what a parametrization gives")

    def right_inverse(self, value: Any) -> None:
        """Sets the originals, in their dtypes, so that the attribute becomes `value`: what an assignment to it does.

        Raises:
            RuntimeError: a parametrization has no `right_inverse`.
            ValueError: a `right_inverse` gives something else than when it was registered.
            ShapeError: another shape than the original has.
        """
        value = value.get() if isinstance(value, Cell) else jnp.asarray(value)
        for module in reversed(list(self)):
            if not hasattr(module, "right_inverse"):
                raise RuntimeError(f"parametrization {type(module).__name__} does not implement right_inverse.")
            value = module.right_inverse(value)
        if self.is_tensor and not isinstance(value, jax.Array):
            raise ValueError(f"expected right_inverse to give an array, as it did before, got {describe(value)}")
        values = [value] if self.is_tensor else _several(value)
        if len(values) != self.ntensors:
            raise ValueError(
                f"expected right_inverse to give {self.ntensors} arrays, as it did before, got {len(values)}"
            )
        for (name, cell), each in zip(_originals(self).items(), values, strict=True):
            cell.set(fitting(cell, each, name), owner=self, name=name)

    def forward(self) -> jax.Array:
        """The value of the attribute."""
        first, *others = self
        value = first(*(getattr(self, name) for name in _originals(self)))
        for module in others:
            value = module(value)
        return value


def register_parametrization(
    module: ModuleT, tensor_name: str, parametrization: Module, *, unsafe: bool = False
) -> ModuleT:
    """From now on, `module.<tensor_name>` is what `parametrization` makes of the parameter or buffer that was there.

    That one is at `module.parametrizations.<tensor_name>.original`, the same `Parameter` as before, and gradients go to it.
    Several parametrizations of one name are applied one after the other. One may define `right_inverse(value)`: it gives the
    original that belongs to a value, is called when the first one is registered, and lets one assign to the attribute. If it
    gives a tuple of arrays, `forward` takes as many, and they are new parameters `original0`, `original1`, ...

    Args:
        module: it gets another class, a subclass of its own named `Parametrized...`, and is given back.
        tensor_name: the name of the parameter or buffer.
        parametrization: a module that takes an array and gives one; it gets the module's training mode.
        unsafe: whether it may change shape and dtype; nothing is checked then.

    Raises:
        ValueError: there is no parameter or buffer of that name; or the parametrization gives no array, or one of another
            shape or dtype. The module is as it was then.
        StateError: inside of a transform, unless the module was made there too.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> from flambeau.nn.utils import parametrize
        >>> class Symmetric(nn.Module):
        ...     def forward(self, x):
        ...         return jnp.triu(x) + jnp.triu(x, 1).T
        ...     def right_inverse(self, a):
        ...         return jnp.triu(a)
        >>> layer = parametrize.register_parametrization(nn.Linear(2, 2), "weight", Symmetric())
        >>> layer.weight = jnp.array([[1.0, 2.0], [2.0, 3.0]])
        >>> layer.weight
        Array([[1., 2.],
               [2., 3.]], dtype=float32)
        >>> list(layer.state_dict())
        ['bias', 'parametrizations.weight.original']

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.parametrize.register_parametrization.html
    """
    check_outside(module, "parametrizing")
    transaction(module, lambda: _parametrize(module, tensor_name, parametrization, unsafe))
    return module


def _parametrize(module: Module, name: str, parametrization: Module, unsafe: bool) -> None:
    parametrization.train(module.training)
    if is_parametrized(module, name):
        known = _parametrizations(module)[name]
        if not unsafe:
            _check_next(parametrization, getattr(module, name))
        known.append(parametrization)
        known.unsafe |= unsafe
        return
    cell = module._parameters.get(name, module._buffers.get(name))
    if cell is None and name not in module._parameters and name not in module._buffers:
        names = [*module._parameters, *module._buffers]
        raise ValueError(
            f"Module '{module}' does not have a parameter, a buffer, or a parametrized element with name "
            f"'{name}'{suggestion(name, names)}"
        )
    check_made(cell, name, "a parametrization")
    made = ParametrizationList([parametrization], cast("Parameter | Buffer", cell), unsafe)
    base, names = type_before_parametrizations(module), frozenset(_parametrizations(module))
    delattr(module, name)
    if not names:
        module.parametrizations = ModuleDict()
    module._become(_parametrized(base, names | {name}))
    module.parametrizations[name] = made


def is_parametrized(module: Module, tensor_name: str | None = None) -> bool:
    """Whether the attribute of that name, or any without a name, is parametrized.

    Example:
        >>> from flambeau import nn
        >>> from flambeau.nn.utils import parametrizations, parametrize
        >>> layer = parametrizations.weight_norm(nn.Linear(2, 3))
        >>> parametrize.is_parametrized(layer), parametrize.is_parametrized(layer, "bias")
        (True, False)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.parametrize.is_parametrized.html
    """
    known = _parametrizations(module)
    return bool(known) if tensor_name is None else tensor_name in known


def remove_parametrizations(module: ModuleT, tensor_name: str, leave_parametrized: bool = True) -> ModuleT:
    """Makes a parametrized attribute an ordinary parameter or buffer again.

    Args:
        module: it gets its own class back when nothing in it is parametrized any more; given back.
        tensor_name: the attribute's name.
        leave_parametrized: whether it keeps the value that the parametrizations give, rather than that of the original.

    Raises:
        ValueError: it is not parametrized; the value has another dtype than the original; or without `leave_parametrized`,
            it is computed from several arrays.
        StateError: inside of a transform, unless the module was made there too.

    Example:
        >>> from flambeau import nn
        >>> from flambeau.nn.utils import parametrizations, parametrize
        >>> layer = parametrizations.weight_norm(nn.Linear(2, 3))
        >>> parametrize.remove_parametrizations(layer, "weight")
        Linear(in_features=2, out_features=3, bias=True)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.parametrize.remove_parametrizations.html
    """
    check_outside(module, "taking parametrizations off")
    if not is_parametrized(module, tensor_name):
        raise ValueError(f"Module {module} does not have a parametrization on {tensor_name}")
    transaction(module, lambda: _remove(module, tensor_name, leave_parametrized))
    return module


def _remove(module: Module, name: str, leave_parametrized: bool) -> None:
    known = _parametrizations(module)
    parametrizations = known[name]
    original: Any = next(iter(_originals(parametrizations).values()))
    if parametrizations.is_tensor:
        if leave_parametrized:
            value = getattr(module, name)
            _check_dtype(value, original, f"the parametrized {name}")
            original.set(value, owner=module, name=name)
    elif leave_parametrized:
        value = getattr(module, name)
        trainable = any(parameter.requires_grad for parameter in parametrizations.parameters())
        original = Parameter(value) if trainable else value
    else:
        raise ValueError(
            "Cannot leave unparametrized (`leave_parametrized=False`) a tensor that is parametrized in terms of a sequence "
            "of tensors."
        )
    base, names = type_before_parametrizations(module), frozenset(known) - {name}
    module._become(_parametrized(base, names) if names else base)
    del module.parametrizations[name]
    if not names:
        del module.parametrizations
    _register(module, name, original)


def type_before_parametrizations(module: Module) -> type[Module]:
    """The class that the module had before anything in it was parametrized.

    Example:
        >>> from flambeau import nn
        >>> from flambeau.nn.utils import parametrizations, parametrize
        >>> parametrize.type_before_parametrizations(parametrizations.weight_norm(nn.Linear(2, 3))) is nn.Linear
        True

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.parametrize.type_before_parametrizations.html
    """
    return type(module).__bases__[0] if is_parametrized(module) else type(module)


def transfer_parametrizations_and_params(
    from_module: Module, to_module: ModuleT, tensor_name: str | None = None
) -> ModuleT:
    """Registers the parametrizations of one module on another too, which from then on shares them and the originals.

    Args:
        from_module: the module that has them; nothing happens if it has none.
        to_module: the module that gets them, and, where it lacks it, the parameter; given back.
        tensor_name: the attribute to transfer; without it, all parametrized ones.

    Example:
        >>> from flambeau import nn
        >>> from flambeau.nn.utils import parametrizations, parametrize
        >>> layer = parametrizations.weight_norm(nn.Linear(2, 3))
        >>> other = parametrize.transfer_parametrizations_and_params(layer, nn.Linear(2, 3))
        >>> name = "parametrizations.weight.original1"
        >>> other.get_parameter(name) is layer.get_parameter(name)
        True

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.parametrize.transfer_parametrizations_and_params.html
    """
    known = _parametrizations(from_module)
    names = list(known) if tensor_name is None else [tensor_name]
    for name in names if known else ():
        if not hasattr(to_module, name):
            setattr(to_module, name, Parameter(getattr(from_module, name)))
        for parametrization in known[name]:
            register_parametrization(to_module, name, parametrization)
        for original, cell in _originals(known[name]).items():
            setattr(_parametrizations(to_module)[name], original, cell)
    return to_module


# -- the class of a parametrized module ---------------------------------------------------------------------------------


@functools.cache
def _parametrized(base: type[Module], names: frozenset[str]) -> type[Module]:
    """The subclass of `base` whose attributes of these names are computed; one for all modules, so that they compile once."""

    def set_attribute(self: Any, name: str, value: Any) -> None:
        if name in names and not isinstance(value, Parameter):
            self.parametrizations[name].right_inverse(value)
        else:
            base.__setattr__(self, name, value)

    members: dict[str, Any] = {name: property(_reader(name)) for name in names}
    # Nobody finds the class by its name: a pickle, or a copy, makes it again from what it is made of.
    members["__reduce_ex__"] = lambda self, protocol: (_rebuild, (base, names), self.__getstate__())
    members["__setattr__"] = set_attribute
    members["__module__"] = __name__
    return type(f"Parametrized{base.__name__}", (base,), members)


def _reader(name: str) -> Callable[[Any], Any]:
    def read(self: Any) -> Any:
        parametrizations = self.parametrizations[name]
        try:
            return value_of(parametrizations)
        except AttributeError as error:
            # Python would take it for a sign that there is no such attribute, and not show it.
            raise RuntimeError(f"{type(self).__name__}.{name}: a parametrization failed: {error}") from error

    return read


def _rebuild(base: type[Module], names: frozenset[str]) -> Module:
    return Module.__new__(_parametrized(base, names))


# -- what it is computed from -------------------------------------------------------------------------------------------


def _parametrizations(module: Module) -> Any:
    """The `ModuleDict` of the module's parametrizations, empty if it has none."""
    known = module.__dict__["_modules"].get("parametrizations")
    return known if isinstance(known, ModuleDict) else {}


def _originals(parametrizations: Module) -> dict[str, Parameter | Buffer]:
    """The parameters or buffers that the attribute is computed from, by name."""
    cells = {**parametrizations._parameters, **parametrizations._buffers}
    return {name: cell for name, cell in cells.items() if name.startswith("original")}


def _register(module: Module, name: str, value: Any) -> None:
    if isinstance(value, Parameter):
        module.register_parameter(name, value)
    else:
        module.register_buffer(name, value)


def _inverted(parametrization: Any, value: Any) -> Any:
    """What `right_inverse` makes of a value; the value itself, if there is none or it says that there cannot be one."""
    if not hasattr(parametrization, "right_inverse"):
        return value
    try:
        return parametrization.right_inverse(value)
    except NotImplementedError:
        return value


def _several(values: Any) -> Sequence[jax.Array]:
    wrong = [values] if not isinstance(values, Sequence) else [v for v in values if not isinstance(v, jax.Array)]
    if wrong:
        raise ValueError(f"'right_inverse' must return an array or a sequence of arrays. Got {describe(wrong[0])}")
    return values


def _check_next(parametrization: Any, value: Any) -> None:
    """Raises unless a further parametrization and its inverse keep the shape and dtype of the attribute."""
    given = parametrization(value)
    _check_fits(given, value, "what a parametrization gives")
    if hasattr(parametrization, "right_inverse"):
        _check_fits(_inverted(parametrization, given), value, "what right_inverse of a further parametrization gives")


def _check_fits(given: Any, wanted: Any, what: str) -> None:
    if not isinstance(given, jax.Array):
        raise ValueError(f"A parametrization must return an array. Got {type(given).__name__}: {what}")
    _check_dtype(given, wanted, what)
    if given.shape != wanted.shape:
        raise ShapeError(f"expected {what} to be {describe(wanted)}, got {describe(given)}")


def _check_dtype(given: Any, wanted: Any, what: str) -> None:
    if given.dtype != wanted.dtype:
        raise ValueError(f"expected {what} to be of dtype {wanted.dtype}, got {given.dtype}")
