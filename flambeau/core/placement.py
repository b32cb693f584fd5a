"""Where arrays lie and of which dtype they are: the arguments of `Module.to`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from flambeau.core.dtypes import canonical_dtype

__all__ = ["mesh_of", "placed_like", "placement_of", "read_device", "read_to"]


def read_to(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """The dtype, and the device or sharding, that the arguments of `to` name."""
    dtype, place = kwargs.pop("dtype", None), kwargs.pop("sharding", None)
    if kwargs.get("device") is not None:
        place = read_device(kwargs["device"])
    kwargs = {name: value for name, value in kwargs.items() if name not in ("device", "non_blocking")}
    if kwargs:
        raise TypeError(f"to() got an unexpected keyword argument '{next(iter(kwargs))}'")
    for arg in args:
        if isinstance(arg, jax.Array):
            dtype, place = arg.dtype, arg.sharding
        elif isinstance(arg, (jax.Device, jax.sharding.Sharding)):
            place = arg
        elif isinstance(arg, bool) or arg is None:
            continue
        elif isinstance(arg, str) and arg.split(":")[0] in ("cpu", "gpu", "cuda", "tpu"):
            place = read_device(arg)
        else:
            try:
                dtype = jnp.dtype(arg)
            except TypeError:
                raise TypeError(f"to() takes a dtype, a device, a sharding or an array, got {arg!r}") from None
    return (None if dtype is None else canonical_dtype(dtype)), place


def read_device(device: Any) -> Any:
    """The `jax.Device` of a name such as "cpu" or "gpu:1"; what is no name stays as it is."""
    if not isinstance(device, str):
        return device
    platform, _, index = device.partition(":")
    return jax.devices({"cuda": "gpu"}.get(platform, platform))[int(index or 0)]


def mesh_of(array: Any) -> Any:
    """The abstract mesh that JAX traces an array with, if it lies on a mesh; what was traced on one is no program for another."""
    mesh = getattr(getattr(getattr(array, "aval", None), "sharding", None), "mesh", None)
    return None if mesh is None or mesh.empty else mesh


def placement_of(array: Any) -> jax.sharding.Sharding | None:
    """Where somebody put `array`, for what takes its place; None if it lies where JAX put it, or is a tracer."""
    return None if isinstance(array, Tracer) or not getattr(array, "committed", False) else array.sharding


def placed_like(value: Any, target: Any) -> Any:
    """`value` where `target` lies, which it is to replace; of another shape, on the same devices.

    Where nobody put `target` anywhere, `value` is free to go where it is needed, unless it is there already.
    """
    place = placement_of(target)
    if place is not None and value.shape == target.shape:
        return jax.device_put(value, place)
    elsewhere = placement_of(value) is not None and (isinstance(target, Tracer) or value.devices() != target.devices())
    return jax.device_put(np.asarray(value)) if elsewhere else value
