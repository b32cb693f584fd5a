"""Mixed precision: `with fb.autocast(jnp.bfloat16):` has the costly functions compute in half precision, as `torch.autocast`.

The dtype belongs to the thread, and to the structure of what `fb.jit` compiles.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from flambeau._errors import DtypeError
from flambeau.core.cell import running

__all__ = ["autocast", "get_autocast_dtype", "is_autocast_enabled", "settings"]

P = ParamSpec("P")
R = TypeVar("R")

_DEVICES = ("cpu", "cuda", "gpu", "tpu", "xpu", "mps")


class autocast:
    """While it is on, products of matrices and convolutions take half precision, and what would suffer from it takes float32.

    In half precision: linear layers, convolutions, recurrent layers, attention, `prelu`. In float32: softmax and its kin,
    layer, group and RMS normalization, norms and distances, all losses, `softplus`, `interpolate`. In the widest dtype of
    their arguments: `bilinear`, `grid_sample`. Everything else takes what it is given, and float64 stays what it is. Only the
    functions of `nn.functional`, and so the layers, look at it; `a @ b` and `jnp.matmul` are JAX's own, and do not.

    Parameters keep their dtype, and gradients come in it. A context manager (which may be entered again), or a decorator.
    Under a raw `jax.jit` it belongs inside of the function: JAX does not know that it changes the program; `fb.jit` does.

    Args:
        device_type: the dtype, as a short form; or, for PyTorch's sake, the name of a device, which changes nothing.
        dtype: bfloat16 or float16; bfloat16 if neither says it.
        enabled: whether it is on; `False` switches an outer one off.
        cache_enabled: accepted for PyTorch's sake: XLA casts a weight once anyway.

    Raises:
        DtypeError: the dtype is no half-precision one.

    Example:
        >>> import jax.numpy as jnp
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> net = nn.Sequential(nn.Linear(4, 4), nn.Softmax(-1))
        >>> with fb.autocast(jnp.bfloat16):
        ...     print(net[0](jnp.ones(4)).dtype, net(jnp.ones(4)).dtype)
        bfloat16 float32

    Source: https://docs.pytorch.org/docs/2.13/amp.html
    """

    def __init__(
        self,
        device_type: Any = None,
        dtype: DTypeLike | None = None,
        enabled: bool = True,
        cache_enabled: bool | None = None,
    ) -> None:
        if isinstance(device_type, str) and device_type.partition(":")[0] in _DEVICES:
            device_type = None
        if device_type is not None and dtype is not None:
            raise TypeError(f"autocast takes one dtype, got {device_type!r} and {dtype!r}")
        chosen = jnp.dtype(device_type or dtype or jnp.bfloat16)
        if chosen not in (jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16)):
            raise DtypeError(f"autocast: expected bfloat16 or float16, got {chosen}")
        self._dtype = chosen if enabled else None
        self._outer: list[Any] = []

    def __enter__(self) -> autocast:
        self._outer.append(running.autocast)
        running.autocast = self._dtype
        return self

    def __exit__(self, *exception: object) -> None:
        running.autocast = self._outer.pop()

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
            # One of its own for each call: several threads may be inside.
            with autocast(self._dtype, enabled=self._dtype is not None):
                return function(*args, **kwargs)

        return wrapped


def is_autocast_enabled(device_type: str | None = None) -> bool:
    """Whether `autocast` is on in this thread.

    Source: https://docs.pytorch.org/docs/2.13/amp.html
    """
    return running.autocast is not None


def get_autocast_dtype(device_type: str | None = None) -> Any:
    """The dtype that `autocast` computes in, or would if it were on.

    Source: https://docs.pytorch.org/docs/2.13/amp.html
    """
    return jnp.dtype(jnp.bfloat16) if running.autocast is None else running.autocast


def settings() -> tuple[Any, ...]:
    """What a traced program depends on besides its arguments and state: options of JAX's, and the dtype of `autocast`."""
    config: Any = jax.config
    return (
        config.jax_enable_x64,
        config.jax_default_matmul_precision,
        config.jax_numpy_dtype_promotion,
        config.jax_disable_jit,
        running.autocast,
    )
