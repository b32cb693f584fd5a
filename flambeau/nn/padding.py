"""Padding of one, two and three spatial dimensions."""

from __future__ import annotations

from typing import ClassVar, Literal

import jax

from flambeau.core.module import Module
from flambeau.nn import functional as F
from flambeau.nn.functional._checks import IntOrTuple, to_tuple

__all__ = [
    "CircularPad1d",
    "CircularPad2d",
    "CircularPad3d",
    "ConstantPad1d",
    "ConstantPad2d",
    "ConstantPad3d",
    "ReflectionPad1d",
    "ReflectionPad2d",
    "ReflectionPad3d",
    "ReplicationPad1d",
    "ReplicationPad2d",
    "ReplicationPad3d",
    "ZeroPad1d",
    "ZeroPad2d",
    "ZeroPad3d",
]


class _Pad(Module):
    """A padding with entries of the input; a subclass says of how many dimensions, and in what mode."""

    _dimensions: ClassVar[int]
    _mode: ClassVar[Literal["reflect", "replicate", "circular"]]

    def __init__(self, padding: IntOrTuple) -> None:
        super().__init__()
        self.padding = to_tuple(padding, 2 * self._dimensions, "padding")

    def forward(self, input: jax.Array) -> jax.Array:
        return F.pad(input, self.padding, self._mode)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class _ConstantPad(Module):
    """A padding with a number; a subclass says of how many dimensions."""

    _dimensions: ClassVar[int]

    def __init__(self, padding: IntOrTuple, value: float) -> None:
        super().__init__()
        self.padding = to_tuple(padding, 2 * self._dimensions, "padding")
        self.value = value

    def forward(self, input: jax.Array) -> jax.Array:
        return F.pad(input, self.padding, "constant", self.value)

    def extra_repr(self) -> str:
        return f"padding={self.padding}, value={self.value}"


class _ZeroPad(_ConstantPad):
    """A padding with zeros; it stands before the padding with a number that it is one of."""

    def __init__(self, padding: IntOrTuple) -> None:
        super().__init__(padding, 0.0)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class CircularPad1d(_Pad):
    """Extends sequences with what stands at their other end, or cuts them where an amount is negative.

    Args:
        padding: how much, on both sides if it is one int, or `(left, right)`.

    Shape:
        input `(N, C, W)` or `(C, W)`, result `(N, C, left + W + right)` or `(C, left + W + right)`.

    Raises:
        ShapeError: the input has another number of dimensions, or an amount is more than the size that negative ones leave.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.CircularPad1d((1, 2))(jnp.array([[1.0, 2.0, 3.0]]))
        Array([[3., 1., 2., 3., 1., 2.]], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.CircularPad1d.html
    """

    _dimensions = 1
    _mode = "circular"


class CircularPad2d(_Pad):
    """Extends images with what stands at their other end, or cuts them where an amount is negative.

    Args:
        padding: how much, on all sides if it is one int, or `(left, right, top, bottom)`.

    Shape:
        input `(N, C, H, W)` or `(C, H, W)`, result
        `(N, C, top + H + bottom, left + W + right)`, or the same without N.

    Raises:
        ShapeError: the input has another number of dimensions, or an amount is more than the size that negative ones leave.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.CircularPad2d((1, 1, 2, 0))(jnp.ones((2, 4, 5, 6))).shape
        (2, 4, 7, 8)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.CircularPad2d.html
    """

    _dimensions = 2
    _mode = "circular"


class CircularPad3d(_Pad):
    """Extends volumes with what stands at their other end, or cuts them where an amount is negative.

    Args:
        padding: how much, on all sides if it is one int, or `(left, right, top, bottom, front, back)`.

    Shape:
        input `(N, C, D, H, W)` or `(C, D, H, W)`, result
        `(N, C, front + D + back, top + H + bottom, left + W + right)`, or the same without N.

    Raises:
        ShapeError: the input has another number of dimensions, or an amount is more than the size that negative ones leave.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.CircularPad3d((1, 1, 2, 0, 1, 0))(jnp.ones((2, 4, 5, 6, 7))).shape
        (2, 4, 6, 8, 9)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.CircularPad3d.html
    """

    _dimensions = 3
    _mode = "circular"


class ConstantPad1d(_ConstantPad):
    """Extends sequences with a number, or cuts them where an amount is negative.

    Args:
        padding: how much, on both sides if it is one int, or `(left, right)`.
        value: the number.

    Shape:
        input `(*, W)`, result `(*, left + W + right)`.

    Raises:
        ShapeError: an amount is negative and more than the size.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.ConstantPad1d((1, -1), 5.0)(jnp.array([[1.0, 2.0, 3.0]]))
        Array([[5., 1., 2.]], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.ConstantPad1d.html
    """

    _dimensions = 1


class ConstantPad2d(_ConstantPad):
    """Extends images with a number, or cuts them where an amount is negative.

    Args:
        padding: how much, on all sides if it is one int, or `(left, right, top, bottom)`.
        value: the number.

    Shape:
        input `(*, H, W)`, result `(*, top + H + bottom, left + W + right)`.

    Raises:
        ShapeError: an amount is negative and more than the size.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.ConstantPad2d((1, 1, 2, 0), 5.0)(jnp.ones((2, 4, 5, 6))).shape
        (2, 4, 7, 8)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.ConstantPad2d.html
    """

    _dimensions = 2


class ConstantPad3d(_ConstantPad):
    """Extends volumes with a number, or cuts them where an amount is negative.

    Args:
        padding: how much, on all sides if it is one int, or `(left, right, top, bottom, front, back)`.
        value: the number.

    Shape:
        input `(*, D, H, W)`, result
        `(*, front + D + back, top + H + bottom, left + W + right)`.

    Raises:
        ShapeError: an amount is negative and more than the size.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.ConstantPad3d((1, 1, 2, 0, 1, 0), 5.0)(jnp.ones((2, 4, 5, 6, 7))).shape
        (2, 4, 6, 8, 9)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.ConstantPad3d.html
    """

    _dimensions = 3


class ReflectionPad1d(_Pad):
    """Extends sequences with their mirror image (without the entry at the edge), or cuts them where an amount is negative.

    Args:
        padding: how much, on both sides if it is one int, or `(left, right)`.

    Shape:
        input `(N, C, W)` or `(C, W)`, result `(N, C, left + W + right)` or `(C, left + W + right)`.

    Raises:
        ShapeError: the input has another number of dimensions, or an amount is not less than the size.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.ReflectionPad1d((1, 2))(jnp.array([[1.0, 2.0, 3.0]]))
        Array([[2., 1., 2., 3., 2., 1.]], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.ReflectionPad1d.html
    """

    _dimensions = 1
    _mode = "reflect"


class ReflectionPad2d(_Pad):
    """Extends images with their mirror image (without the entry at the edge), or cuts them where an amount is negative.

    Args:
        padding: how much, on all sides if it is one int, or `(left, right, top, bottom)`.

    Shape:
        input `(N, C, H, W)` or `(C, H, W)`, result
        `(N, C, top + H + bottom, left + W + right)`, or the same without N.

    Raises:
        ShapeError: the input has another number of dimensions, or an amount is not less than the size.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.ReflectionPad2d((1, 1, 2, 0))(jnp.ones((2, 4, 5, 6))).shape
        (2, 4, 7, 8)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.ReflectionPad2d.html
    """

    _dimensions = 2
    _mode = "reflect"


class ReflectionPad3d(_Pad):
    """Extends volumes with their mirror image (without the entry at the edge), or cuts them where an amount is negative.

    Args:
        padding: how much, on all sides if it is one int, or `(left, right, top, bottom, front, back)`.

    Shape:
        input `(N, C, D, H, W)` or `(C, D, H, W)`, result
        `(N, C, front + D + back, top + H + bottom, left + W + right)`, or the same without N.

    Raises:
        ShapeError: the input has another number of dimensions, or an amount is not less than the size.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.ReflectionPad3d((1, 1, 2, 0, 1, 0))(jnp.ones((2, 4, 5, 6, 7))).shape
        (2, 4, 6, 8, 9)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.ReflectionPad3d.html
    """

    _dimensions = 3
    _mode = "reflect"


class ReplicationPad1d(_Pad):
    """Extends sequences with the entry at their edge, or cuts them where an amount is negative.

    Args:
        padding: how much, on both sides if it is one int, or `(left, right)`.

    Shape:
        input `(N, C, W)` or `(C, W)`, result `(N, C, left + W + right)` or `(C, left + W + right)`.

    Raises:
        ShapeError: the input has another number of dimensions, or nothing would be left of it.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.ReplicationPad1d((1, 2))(jnp.array([[1.0, 2.0, 3.0]]))
        Array([[1., 1., 2., 3., 3., 3.]], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.ReplicationPad1d.html
    """

    _dimensions = 1
    _mode = "replicate"


class ReplicationPad2d(_Pad):
    """Extends images with the entry at their edge, or cuts them where an amount is negative.

    Args:
        padding: how much, on all sides if it is one int, or `(left, right, top, bottom)`.

    Shape:
        input `(N, C, H, W)` or `(C, H, W)`, result
        `(N, C, top + H + bottom, left + W + right)`, or the same without N.

    Raises:
        ShapeError: the input has another number of dimensions, or nothing would be left of it.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.ReplicationPad2d((1, 1, 2, 0))(jnp.ones((2, 4, 5, 6))).shape
        (2, 4, 7, 8)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.ReplicationPad2d.html
    """

    _dimensions = 2
    _mode = "replicate"


class ReplicationPad3d(_Pad):
    """Extends volumes with the entry at their edge, or cuts them where an amount is negative.

    Args:
        padding: how much, on all sides if it is one int, or `(left, right, top, bottom, front, back)`.

    Shape:
        input `(N, C, D, H, W)` or `(C, D, H, W)`, result
        `(N, C, front + D + back, top + H + bottom, left + W + right)`, or the same without N.

    Raises:
        ShapeError: the input has another number of dimensions, or nothing would be left of it.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.ReplicationPad3d((1, 1, 2, 0, 1, 0))(jnp.ones((2, 4, 5, 6, 7))).shape
        (2, 4, 6, 8, 9)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.ReplicationPad3d.html
    """

    _dimensions = 3
    _mode = "replicate"


class ZeroPad1d(_ZeroPad, ConstantPad1d):
    """Extends sequences with zeros, or cuts them where an amount is negative.

    Args:
        padding: how much, on both sides if it is one int, or `(left, right)`.

    Shape:
        input `(*, W)`, result `(*, left + W + right)`.

    Raises:
        ShapeError: an amount is negative and more than the size.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.ZeroPad1d((1, 2))(jnp.array([[1.0, 2.0, 3.0]]))
        Array([[0., 1., 2., 3., 0., 0.]], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.ZeroPad1d.html
    """


class ZeroPad2d(_ZeroPad, ConstantPad2d):
    """Extends images with zeros, or cuts them where an amount is negative.

    Args:
        padding: how much, on all sides if it is one int, or `(left, right, top, bottom)`.

    Shape:
        input `(*, H, W)`, result `(*, top + H + bottom, left + W + right)`.

    Raises:
        ShapeError: an amount is negative and more than the size.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.ZeroPad2d((1, 1, 2, 0))(jnp.ones((2, 4, 5, 6))).shape
        (2, 4, 7, 8)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.ZeroPad2d.html
    """


class ZeroPad3d(_ZeroPad, ConstantPad3d):
    """Extends volumes with zeros, or cuts them where an amount is negative.

    Args:
        padding: how much, on all sides if it is one int, or `(left, right, top, bottom, front, back)`.

    Shape:
        input `(*, D, H, W)`, result
        `(*, front + D + back, top + H + bottom, left + W + right)`.

    Raises:
        ShapeError: an amount is negative and more than the size.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.ZeroPad3d((1, 1, 2, 0, 1, 0))(jnp.ones((2, 4, 5, 6, 7))).shape
        (2, 4, 6, 8, 9)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.ZeroPad3d.html
    """
