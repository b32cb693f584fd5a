"""The ways to prune: each makes a mask for an array, and is the hook that applies it before each forward."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from flambeau._errors import ShapeError, StateError
from flambeau.core import _draw
from flambeau.core.module import Module
from flambeau.core.transaction import transaction
from flambeau.nn.functional._checks import describe
from flambeau.nn.utils._pruning_masks import (
    Unseen,
    channel_norms,
    check_amount,
    check_channels,
    count_of,
    like,
    lowest,
    values_of,
)
from flambeau.nn.utils._reparametrize import check_outside, compiling, parameter_of, take_hook

__all__ = [
    "BasePruningMethod",
    "CustomFromMask",
    "Identity",
    "L1Unstructured",
    "LnStructured",
    "PruningContainer",
    "RandomStructured",
    "RandomUnstructured",
    "take_method",
]


class BasePruningMethod(metaclass=abc.ABCMeta):
    """Base of the ways to prune: a subclass sets `PRUNING_TYPE` and defines `compute_mask`.

    `PRUNING_TYPE` says what of an array that is pruned already a further method is shown: "unstructured", the entries that
    are left, as a vector; "structured", the channels along its `dim` that are left; "global", all of it.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> from flambeau.nn.utils import prune
        >>> class EveryOther(prune.BasePruningMethod):
        ...     PRUNING_TYPE = "unstructured"
        ...     def compute_mask(self, t, default_mask):
        ...         return default_mask.reshape(-1).at[::2].set(0).reshape(t.shape)
        >>> layer = nn.Linear(2, 2)
        >>> _ = EveryOther.apply(layer, "weight")
        >>> layer.weight_mask
        Array([[0., 1.],
               [0., 1.]], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.prune.BasePruningMethod.html
    """

    # By its metaclass, and not by abc.ABC, which has __slots__: so two hooks with the same fields compile once.

    PRUNING_TYPE: ClassVar[str]
    _tensor_name: str | None = None

    def __call__(self, module: Module, inputs: Any) -> None:
        """The hook: puts the pruned array in its place."""
        setattr(module, self._name(), self.apply_mask(module))

    @abc.abstractmethod
    def compute_mask(self, t: jax.Array, default_mask: jax.Array) -> jax.Array:
        """A mask for `t`, or for scores of its shape; what `default_mask` has pruned stays so."""

    def apply_mask(self, module: Module) -> jax.Array:
        """The original times its mask.

        Raises:
            StateError: this was not applied to a module.
        """
        original = getattr(module, f"{self._name()}_orig")
        return getattr(module, f"{self._name()}_mask").astype(original.dtype) * original

    @classmethod
    def apply(
        cls, module: Module, name: str, *args: Any, importance_scores: Any = None, **kwargs: Any
    ) -> BasePruningMethod:
        """Prunes a parameter, on top of what was pruned before, and registers the hook that multiplies by the mask.

        Args:
            module: the module with the parameter.
            name: the parameter's name.
            args: what the method itself takes.
            importance_scores: what to choose by, in the place of the parameter's values; an array of its shape.
            kwargs: what the method itself takes.

        Returns:
            The hook: the method, or the container of all methods applied so far.

        Raises:
            AttributeError: there is no such parameter.
            ShapeError: the scores have another shape.
            StateError: inside of a transform.
        """
        check_outside(module, "pruning")
        method = cls(*args, **kwargs)
        method._tensor_name = name
        return transaction(module, lambda: _prune(method, module, name, importance_scores))

    def prune(self, t: jax.Array, default_mask: Any = None, importance_scores: Any = None) -> jax.Array:
        """The array `t` times a mask for it.

        Args:
            t: the array.
            default_mask: what is pruned of it already; by default nothing.
            importance_scores: what to choose by, in the place of its values; an array of its shape.

        Raises:
            ShapeError: the scores have another shape.
        """
        mask = jnp.ones_like(t) if default_mask is None else jnp.asarray(default_mask)
        return t * self.compute_mask(_scores(importance_scores, t, "t"), default_mask=mask)

    def remove(self, module: Module) -> None:
        """Makes the pruned array the parameter again; what is pruned stays 0.

        Raises:
            StateError: this was not applied to a module.
        """
        name = self._name()
        pruned, parameter = self.apply_mask(module), module._parameters[f"{name}_orig"]
        for each in (name, f"{name}_orig", f"{name}_mask"):
            delattr(module, each)
        parameter.set(pruned)
        module.register_parameter(name, parameter)

    def _name(self) -> str:
        if self._tensor_name is None:
            raise StateError(f"{type(self).__name__} was not applied to a module: call {type(self).__name__}.apply")
        return self._tensor_name


def take_method(module: Module, name: str) -> BasePruningMethod | None:
    """Takes the hook that prunes a parameter off its module; None if there is none."""
    return take_hook(
        module,
        "_forward_pre_hooks",
        lambda function: isinstance(function, BasePruningMethod) and function._tensor_name == name,
    )


def _scores(importance_scores: Any, t: jax.Array, name: str) -> jax.Array:
    if importance_scores is None:
        return t
    scores = jnp.asarray(importance_scores)
    if scores.shape != t.shape:
        raise ShapeError(f"expected importance_scores of the shape of {name}, {t.shape}, got {describe(scores)}")
    return scores


def _prune(method: BasePruningMethod, module: Module, name: str, importance_scores: Any) -> BasePruningMethod:
    before = take_method(module, name)
    hook: BasePruningMethod
    if before is None:
        parameter = parameter_of(module, name, "pruning")
        value = parameter.get()
        hook, default_mask = method, like(np.ones(value.shape), value)
    else:
        hook = PruningContainer(*(before if isinstance(before, PruningContainer) else (before,)), method)
        parameter, value, default_mask = None, getattr(module, name), getattr(module, f"{name}_mask")
    mask = hook.compute_mask(_scores(importance_scores, value, name), default_mask=default_mask)
    if parameter is not None:
        delattr(module, name)
        module.register_parameter(f"{name}_orig", parameter)
    module.register_buffer(f"{name}_mask", mask)
    hook(module, ())
    module.register_forward_pre_hook(hook)
    return hook


class PruningContainer(BasePruningMethod):
    """The methods by which one parameter was pruned, one after the other.

    Args:
        args: methods that were applied to the same parameter.

    Example:
        >>> from flambeau import nn
        >>> from flambeau.nn.utils import prune
        >>> layer = prune.random_unstructured(nn.Linear(2, 2), "weight", amount=1)
        >>> container = prune.L1Unstructured.apply(layer, "weight", amount=1)
        >>> [type(method).__name__ for method in container], int(layer.weight_mask.sum())
        (['RandomUnstructured', 'L1Unstructured'], 2)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.prune.PruningContainer.html
    """

    def __init__(self, *args: BasePruningMethod) -> None:
        self._pruning_methods: tuple[BasePruningMethod, ...] = ()
        if args:
            self._tensor_name = args[0]._tensor_name
        for method in args:
            self.add_pruning_method(method)

    def add_pruning_method(self, method: BasePruningMethod) -> None:
        """Adds a method at the end.

        Raises:
            TypeError: it is none.
            ValueError: it prunes another parameter.
        """
        if not isinstance(method, BasePruningMethod):
            raise TypeError(f"{type(method)} is not a BasePruningMethod subclass")
        if method._tensor_name != self._tensor_name:
            raise ValueError(
                f"Can only add pruning methods acting on the parameter named '{self._tensor_name}' to PruningContainer "
                f"{self}. Found '{method._tensor_name}'"
            )
        self._pruning_methods += (method,)

    def __len__(self) -> int:
        return len(self._pruning_methods)

    def __iter__(self) -> Iterator[BasePruningMethod]:
        return iter(self._pruning_methods)

    def __getitem__(self, idx: Any) -> Any:
        return self._pruning_methods[idx]

    def compute_mask(self, t: jax.Array, default_mask: jax.Array) -> jax.Array:
        """The mask of the last method for what the default one has left, and the default one elsewhere."""
        method = self._pruning_methods[-1]
        values, mask = values_of(t), values_of(default_mask).astype(t.dtype)
        left = _left(method, mask)
        partial = method.compute_mask(jax.device_put(values[left]), default_mask=jax.device_put(mask[left]))
        mask[left] = np.asarray(partial)
        return like(mask, t)


def _left(method: BasePruningMethod, mask: np.ndarray) -> Any:
    """The index of what a method is shown."""
    if method.PRUNING_TYPE == "unstructured":
        return mask == 1
    if method.PRUNING_TYPE == "global":
        return ...
    if method.PRUNING_TYPE != "structured":
        raise ValueError(f"Unrecognized PRUNING_TYPE {method.PRUNING_TYPE}")
    dim = getattr(method, "dim", None)
    if dim is None:
        raise AttributeError('Pruning methods of PRUNING_TYPE "structured" need to have the attribute `dim` defined.')
    if dim < -mask.ndim:
        raise IndexError(f"Index is out of bounds for tensor with dimensions {mask.ndim}")
    dim %= mask.ndim
    channels = (mask != 0).any(tuple(axis for axis in range(mask.ndim) if axis != dim))
    return (*[slice(None)] * dim, channels)


class Identity(BasePruningMethod):
    """Prunes nothing: the mask is of ones.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau.nn.utils import prune
        >>> prune.Identity().prune(jnp.array([1.0, 2.0]))
        Array([1., 2.], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.prune.Identity.html
    """

    PRUNING_TYPE = "unstructured"

    def compute_mask(self, t: jax.Array, default_mask: jax.Array) -> jax.Array:
        return default_mask


class _ByAmount(BasePruningMethod):
    """Prunes an amount of the entries: those of the lowest scores."""

    PRUNING_TYPE = "unstructured"

    def __init__(self, amount: float) -> None:
        check_amount(amount)
        self.amount = amount

    @abc.abstractmethod
    def _rate(self, t: jax.Array) -> np.ndarray:
        """The scores."""

    def compute_mask(self, t: jax.Array, default_mask: jax.Array) -> jax.Array:
        pruned = lowest(self._rate(t), count_of(self.amount, t.size))
        return like(np.where(pruned, 0, values_of(default_mask)), default_mask)


class RandomUnstructured(_ByAmount):
    """Prunes entries at random, drawn from the default generator.

    Args:
        amount: how many, as an int, or as a fraction of them.

    Raises:
        TypeError: the amount is no number.
        ValueError: it is negative, or a fraction above 1.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau.nn.utils import prune
        >>> int((prune.RandomUnstructured(amount=2).prune(jnp.ones(5)) == 0).sum())
        2

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.prune.RandomUnstructured.html
    """

    def _rate(self, t: jax.Array) -> np.ndarray:
        return _random(t.shape)


class L1Unstructured(_ByAmount):
    """Prunes the entries of the smallest absolute values.

    Args:
        amount: how many, as an int, or as a fraction of them.

    Raises:
        TypeError: the amount is no number.
        ValueError: it is negative, or a fraction above 1.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau.nn.utils import prune
        >>> prune.L1Unstructured(amount=1).prune(jnp.array([1.0, -3.0, 2.0]))
        Array([ 0., -3.,  2.], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.prune.L1Unstructured.html
    """

    @classmethod
    def apply(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, module: Module, name: str, amount: float, importance_scores: Any = None
    ) -> BasePruningMethod:
        return super().apply(module, name, amount=amount, importance_scores=importance_scores)

    def _rate(self, t: jax.Array) -> np.ndarray:
        return np.abs(values_of(t))


class _ByChannel(BasePruningMethod):
    """Prunes an amount of the channels along a dimension: those of the lowest scores."""

    PRUNING_TYPE = "structured"

    def __init__(self, amount: float, dim: int) -> None:
        check_amount(amount)
        self.amount = amount
        self.dim = dim

    @abc.abstractmethod
    def _rate(self, t: jax.Array) -> np.ndarray:
        """The score of each channel."""

    def compute_mask(self, t: jax.Array, default_mask: jax.Array) -> jax.Array:
        check_channels(t, self.dim)
        pruned = lowest(self._rate(t), count_of(self.amount, t.shape[self.dim]))
        pruned = np.expand_dims(pruned, tuple(axis for axis in range(t.ndim) if axis != self.dim % t.ndim))
        return like(np.where(pruned, 0, values_of(default_mask)), t)


class RandomStructured(_ByChannel):
    """Prunes channels along a dimension at random, drawn from the default generator.

    Args:
        amount: how many, as an int, or as a fraction of them.
        dim: the dimension.

    Raises:
        TypeError: the amount is no number.
        ValueError: it is negative, or a fraction above 1.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau.nn.utils import prune
        >>> pruned = prune.RandomStructured(amount=2, dim=0).prune(jnp.ones((3, 4)))
        >>> int((pruned == 0).all(1).sum())
        2

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.prune.RandomStructured.html
    """

    def __init__(self, amount: float, dim: int = -1) -> None:
        super().__init__(amount, dim)

    def _rate(self, t: jax.Array) -> np.ndarray:
        return _random((t.shape[self.dim],))


class LnStructured(_ByChannel):
    """Prunes the channels of the smallest n-norms along a dimension.

    Args:
        amount: how many, as an int, or as a fraction of them.
        n: the exponent of the norm; or "fro", or "nuc" for channels that are matrices.
        dim: the dimension.

    Raises:
        TypeError: the amount is no number.
        ValueError: it is negative, or a fraction above 1.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau.nn.utils import prune
        >>> prune.LnStructured(amount=1, n=2, dim=0).prune(jnp.array([[1.0, 3.0], [2.0, 2.0]]))
        Array([[1., 3.],
               [0., 0.]], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.prune.LnStructured.html
    """

    def __init__(self, amount: float, n: float | str, dim: int = -1) -> None:
        super().__init__(amount, dim)
        self.n = n

    @classmethod
    def apply(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, module: Module, name: str, amount: float, n: float | str, dim: int, importance_scores: Any = None
    ) -> BasePruningMethod:
        return super().apply(module, name, amount=amount, n=n, dim=dim, importance_scores=importance_scores)

    def _rate(self, t: jax.Array) -> np.ndarray:
        return channel_norms(t, self.n, self.dim)


class CustomFromMask(BasePruningMethod):
    """Prunes what a given mask has 0 for.

    Args:
        mask: an array of the parameter's shape.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau.nn.utils import prune
        >>> prune.CustomFromMask(jnp.array([0, 1])).prune(jnp.array([1.0, 2.0]))
        Array([0., 2.], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.prune.CustomFromMask.html
    """

    PRUNING_TYPE = "global"

    def __init__(self, mask: Any) -> None:
        self._held = Unseen(jnp.asarray(mask))

    @property
    def mask(self) -> jax.Array:
        """The mask that was given.

        Raises:
            StateError: in a function that is being compiled.
        """
        if compiling():
            raise StateError(
                f"the mask that {type(self).__name__} was given is no state of a module, and may be another one the next time: "
                f"read the buffer {self._name()}_mask of the module"
            )
        return self._held.mask

    def compute_mask(self, t: jax.Array, default_mask: jax.Array) -> jax.Array:
        mask = values_of(self._held.mask)
        if mask.shape != default_mask.shape:
            raise ShapeError(f"expected a mask of the shape {default_mask.shape}, got {describe(mask)}")
        return like(values_of(default_mask) * mask.astype(default_mask.dtype), default_mask)


def _random(shape: tuple[int, ...]) -> np.ndarray:
    return values_of(_draw.draw(_draw.uniform, None, shape, np.dtype(np.float32)))
