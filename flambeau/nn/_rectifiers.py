"""Activations with a bend: the rectified linear unit and its kin."""

from __future__ import annotations

import warnings

import jax

from flambeau.core.module import Module
from flambeau.nn import functional as F

__all__ = [
    "CELU",
    "ELU",
    "SELU",
    "Hardshrink",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "Inplace",
    "LeakyReLU",
    "RReLU",
    "ReLU",
    "ReLU6",
    "Softshrink",
    "Threshold",
]


class Inplace(Module):
    """An activation whose only setting is PyTorch's `inplace`."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def extra_repr(self) -> str:
        return "inplace=True" if self.inplace else ""


def inplace_after(module: Module) -> str:
    """PyTorch's `inplace` as it follows other settings in a `repr`."""
    return ", inplace=True" if module.inplace else ""


class ReLU(Inplace):
    """The rectified linear unit: max(x, 0).

    Args:
        inplace: accepted for PyTorch's sake; arrays are never changed in place.

    Shape:
        input `(*)`, result `(*)`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.ReLU()(jnp.array([-1.0, 2.0]))
        Array([0., 2.], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.ReLU.html
    """

    def forward(self, input: jax.Array) -> jax.Array:
        return F.relu(input)


class LeakyReLU(Module):
    """The leaky rectified linear unit: max(x, 0) + a · min(x, 0).

    Args:
        negative_slope: the slope a below zero.
        inplace: accepted for PyTorch's sake; arrays are never changed in place.

    Shape:
        input `(*)`, result `(*)`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.LeakyReLU(0.5)(jnp.array([-1.0, 2.0]))
        Array([-0.5,  2. ], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.LeakyReLU.html
    """

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None:
        super().__init__()
        self.negative_slope = negative_slope
        self.inplace = inplace

    def forward(self, input: jax.Array) -> jax.Array:
        return F.leaky_relu(input, self.negative_slope)

    def extra_repr(self) -> str:
        return f"negative_slope={self.negative_slope}{inplace_after(self)}"


class RReLU(Module):
    """The leaky rectified linear unit with random slopes a ~ U(lower, upper) in training, and their mean in evaluation.

    Args:
        lower: the lower bound of the slopes.
        upper: the upper bound of the slopes.
        inplace: accepted for PyTorch's sake; arrays are never changed in place.

    Shape:
        input `(*)`, result `(*)`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.RReLU(0.25, 0.75).eval()(jnp.array([-1.0, 2.0]))
        Array([-0.5,  2. ], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.RReLU.html
    """

    def __init__(self, lower: float = 1.0 / 8, upper: float = 1.0 / 3, inplace: bool = False) -> None:
        super().__init__()
        self.lower = lower
        self.upper = upper
        self.inplace = inplace

    def forward(self, input: jax.Array) -> jax.Array:
        return F.rrelu(input, self.lower, self.upper, self.training)

    def extra_repr(self) -> str:
        return f"lower={self.lower}, upper={self.upper}{inplace_after(self)}"


class Threshold(Module):
    """Keeps what exceeds a threshold and replaces the rest: x if x > threshold, else value.

    Args:
        threshold: what the input has to exceed.
        value: what stands in the place of the others.
        inplace: accepted for PyTorch's sake; arrays are never changed in place.

    Shape:
        input `(*)`, result `(*)`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.Threshold(0.1, 20.0)(jnp.array([0.0, 2.0]))
        Array([20.,  2.], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.Threshold.html
    """

    def __init__(self, threshold: float, value: float, inplace: bool = False) -> None:
        super().__init__()
        self.threshold = threshold
        self.value = value
        self.inplace = inplace

    def forward(self, input: jax.Array) -> jax.Array:
        return F.threshold(input, self.threshold, self.value)

    def extra_repr(self) -> str:
        return f"threshold={self.threshold}, value={self.value}{inplace_after(self)}"


class Hardtanh(Module):
    """Cuts off at both sides: min(max(x, min_val), max_val).

    Args:
        min_val: the lower bound.
        max_val: the upper bound.
        inplace: accepted for PyTorch's sake; arrays are never changed in place.
        min_value: deprecated; use `min_val`.
        max_value: deprecated; use `max_val`.

    Shape:
        input `(*)`, result `(*)`.

    Raises:
        AssertionError: `max_val` is not above `min_val`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.Hardtanh()(jnp.array([-3.0, 0.5, 3.0]))
        Array([-1. ,  0.5,  1. ], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.Hardtanh.html
    """

    def __init__(
        self,
        min_val: float = -1.0,
        max_val: float = 1.0,
        inplace: bool = False,
        min_value: float | None = None,
        max_value: float | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("min_value", min_value), ("max_value", max_value)):
            if value is not None:
                new = name.replace("value", "val")
                warnings.warn(f"keyword argument `{name}` is deprecated, use `{new}`", FutureWarning, stacklevel=2)
        self.min_val = min_val if min_value is None else min_value
        self.max_val = max_val if max_value is None else max_value
        if self.max_val <= self.min_val:
            raise AssertionError(f"expected max_val > min_val, got {self.max_val} and {self.min_val}")
        self.inplace = inplace

    def forward(self, input: jax.Array) -> jax.Array:
        return F.hardtanh(input, self.min_val, self.max_val)

    def extra_repr(self) -> str:
        return f"min_val={self.min_val}, max_val={self.max_val}{inplace_after(self)}"


class ReLU6(Hardtanh):
    """The rectified linear unit, bounded: min(max(x, 0), 6).

    Args:
        inplace: accepted for PyTorch's sake; arrays are never changed in place.

    Shape:
        input `(*)`, result `(*)`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.ReLU6()(jnp.array([-1.0, 2.0, 8.0]))
        Array([0., 2., 6.], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.ReLU6.html
    """

    def __init__(self, inplace: bool = False) -> None:
        super().__init__(0.0, 6.0, inplace)

    def forward(self, input: jax.Array) -> jax.Array:
        return F.relu6(input)

    def extra_repr(self) -> str:
        return "inplace=True" if self.inplace else ""


class Hardsigmoid(Inplace):
    """A sigmoid made of straight lines: min(max(x / 6 + 1/2, 0), 1).

    Args:
        inplace: accepted for PyTorch's sake; arrays are never changed in place.

    Shape:
        input `(*)`, result `(*)`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.Hardsigmoid()(jnp.array([-3.0, 0.0, 3.0]))
        Array([0. , 0.5, 1. ], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.Hardsigmoid.html
    """

    def forward(self, input: jax.Array) -> jax.Array:
        return F.hardsigmoid(input)

    def extra_repr(self) -> str:
        return ""


class Hardswish(Inplace):
    """A swish made of few operations: x · min(max(x + 3, 0), 6) / 6.

    Args:
        inplace: accepted for PyTorch's sake; arrays are never changed in place.

    Shape:
        input `(*)`, result `(*)`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.Hardswish()(jnp.array([-3.0, 0.0, 3.0]))
        Array([-0.,  0.,  3.], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.Hardswish.html
    """

    def forward(self, input: jax.Array) -> jax.Array:
        return F.hardswish(input)

    def extra_repr(self) -> str:
        return ""


class Hardshrink(Module):
    """Sets what is small to zero: x if |x| > λ, else 0.

    Args:
        lambd: the largest magnitude that is small.

    Shape:
        input `(*)`, result `(*)`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.Hardshrink()(jnp.array([-1.0, 0.3]))
        Array([-1.,  0.], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.Hardshrink.html
    """

    def __init__(self, lambd: float = 0.5) -> None:
        super().__init__()
        self.lambd = lambd

    def forward(self, input: jax.Array) -> jax.Array:
        return F.hardshrink(input, self.lambd)

    def extra_repr(self) -> str:
        return f"{self.lambd}"


class Softshrink(Module):
    """Moves each value towards zero by λ, and no further.

    Args:
        lambd: how far, at least 0.

    Shape:
        input `(*)`, result `(*)`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.Softshrink()(jnp.array([-1.0, 0.3]))
        Array([-0.5,  0. ], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.Softshrink.html
    """

    def __init__(self, lambd: float = 0.5) -> None:
        super().__init__()
        self.lambd = lambd

    def forward(self, input: jax.Array) -> jax.Array:
        return F.softshrink(input, self.lambd)

    def extra_repr(self) -> str:
        return f"{self.lambd}"


class ELU(Module):
    """The exponential linear unit: x if x > 0, else α · (exp(x) - 1).

    Args:
        alpha: minus the value that it tends to.
        inplace: accepted for PyTorch's sake; arrays are never changed in place.

    Shape:
        input `(*)`, result `(*)`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.ELU()(jnp.array([0.0, 2.0]))
        Array([0., 2.], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.ELU.html
    """

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        super().__init__()
        self.alpha = alpha
        self.inplace = inplace

    def forward(self, input: jax.Array) -> jax.Array:
        return F.elu(input, self.alpha)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}{inplace_after(self)}"


class CELU(Module):
    """The continuously differentiable exponential linear unit: x if x > 0, else α · (exp(x / α) - 1).

    Args:
        alpha: minus the value that it tends to; not 0.
        inplace: accepted for PyTorch's sake; arrays are never changed in place.

    Shape:
        input `(*)`, result `(*)`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.CELU()(jnp.array([0.0, 2.0]))
        Array([0., 2.], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.CELU.html
    """

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        super().__init__()
        self.alpha = alpha
        self.inplace = inplace

    def forward(self, input: jax.Array) -> jax.Array:
        return F.celu(input, self.alpha)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}{inplace_after(self)}"


class SELU(Inplace):
    """The scaled exponential linear unit: 1.0507 · (x if x > 0, else 1.6733 · (exp(x) - 1)).

    Args:
        inplace: accepted for PyTorch's sake; arrays are never changed in place.

    Shape:
        input `(*)`, result `(*)`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.SELU()(jnp.array([0.0, 1.0])).round(4)
        Array([0.    , 1.0507], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.SELU.html
    """

    def forward(self, input: jax.Array) -> jax.Array:
        return F.selu(input)
