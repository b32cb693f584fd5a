"""Where windows lie, and sums and first maxima over them, one axis after the other: the engine of all pooling."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from flambeau._errors import DtypeError, ShapeError
from flambeau.nn.functional._checks import IntOrTuple, check_rank, describe, to_tuple

__all__ = [
    "Maxima",
    "OutputSize",
    "Window",
    "adaptive_windows",
    "at_indices",
    "averages",
    "check_input",
    "first_along",
    "maxima",
    "windows_of",
]

OutputSize: TypeAlias = int | Sequence[int | None] | None
"""The size of each spatial dimension of a result; None is that of the input."""

Maxima: TypeAlias = Any
"""An array, or with `return_indices` a pair of them. As a union it would have each caller tell which one it is."""

_SPATIAL = {1: "L", 2: "H, W", 3: "D, H, W"}

# Up to this many positions a window is searched one after the other; longer ones by doubling.
_FEW = 8
# Up to this size windows side by side are reduced, and up to that searched, one position after the other. All such numbers
# are measured on a CPU.
_SMALL, _SMALL_TO_SEARCH = 4, 2


class _Reduction(NamedTuple):
    """A sum or a maximum."""

    nothing: float
    """That of nothing at all."""
    of_two: Callable[[jax.Array, jax.Array], jax.Array]
    over_axes: Callable[[jax.Array, tuple[int, ...]], jax.Array]


_Pair: TypeAlias = tuple[jax.Array, jax.Array]
"""Values, and for each the flat index of where in the input's spatial dimensions it stands."""


@dataclass(frozen=True)
class Window:
    """How windows lie along one axis: window i covers the positions stride·i − padding + dilation·k, k < kernel."""

    size: int
    kernel: int
    stride: int
    padding: int = 0
    dilation: int = 1
    ceil_mode: bool = False
    positions: tuple[int, ...] | None = None
    """The positions of the axis, spread out so that windows of unlike sizes get one size; `size` stands for none."""

    @property
    def length(self) -> int:
        """How many positions there are for the windows to lie on."""
        return self.size if self.positions is None else len(self.positions)

    @property
    def reach(self) -> int:
        """From the first position of a window to behind its last one."""
        return self.dilation * (self.kernel - 1) + 1

    @property
    def count(self) -> int:
        """How many windows there are."""
        room = self.length + 2 * self.padding - self.reach
        if not self.ceil_mode:
            return room // self.stride + 1
        count = -(-room // self.stride) + 1
        # A window that starts in the padding behind the input would see nothing of it.
        return count - 1 if (count - 1) * self.stride >= self.length + self.padding else count

    @property
    def behind(self) -> int:
        """What the last window needs behind the axis; negative where it does not get as far as its end."""
        return (self.count - 1) * self.stride + self.reach - self.length - self.padding

    @property
    def tiles(self) -> bool:
        """Whether the windows lie side by side, from the start of the axis on: a reshape then tells them apart."""
        return self.stride == self.reach == self.kernel and self.padding == 0 and self.behind <= 0


def _adaptive_window(size: int, count: int) -> Window:
    """`count` windows, window i from ⌊i·size / count⌋ to ⌈(i + 1)·size / count⌉, that together cover the axis."""
    if count and size % count == 0:
        return Window(size, size // count, size // count)
    starts = np.arange(count) * size // max(count, 1)
    stops = -(-np.arange(1, count + 1) * size // max(count, 1))
    kernel = int((stops - starts).max(initial=1))
    spread = starts[:, None] + np.arange(kernel)
    spread[spread >= stops[:, None]] = size
    return Window(size, kernel, kernel, positions=tuple(spread.ravel().tolist()))


def check_input(n: int, input: jax.Array, *, integers: bool) -> None:
    """Raises unless `input` has one or two dimensions besides `n`, none of them empty but N, and numbers in it.

    Raises:
        ShapeError: `expected input (N, C, L) or (C, L), got float32[3]`.
        DtypeError: `expected input of a floating dtype, got bool[8, 3]`.
    """
    expected = f"(N, C, {_SPATIAL[n]}) or (C, {_SPATIAL[n]})"
    check_rank(input, (n + 1, n + 2), expected)
    if 0 in input.shape[-n - 1 :]:
        raise ShapeError(f"expected input {expected} with no empty dimension but N, got {describe(input)}")
    kinds = (jnp.floating, jnp.integer) if integers else (jnp.floating,)
    if not any(jnp.issubdtype(input.dtype, kind) for kind in kinds):
        raise DtypeError(f"expected input of a floating{' or integer' * integers} dtype, got {describe(input)}")


def windows_of(
    n: int,
    input: jax.Array,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None,
    padding: IntOrTuple,
    dilation: IntOrTuple,
    ceil_mode: bool,
) -> tuple[Window, ...]:
    """The windows of each of the `n` spatial dimensions.

    Raises:
        ShapeError: an argument is out of range, or the input too small for one window.
    """
    # An empty stride is PyTorch's other way to leave it out.
    steps = kernel_size if stride is None or (isinstance(stride, Sequence) and not stride) else stride
    kernels, strides = to_tuple(kernel_size, n, "kernel_size"), to_tuple(steps, n, "stride")
    paddings, dilations = to_tuple(padding, n, "padding"), to_tuple(dilation, n, "dilation")
    wrong = [
        f"expected {name} of at least 1, got {values}"
        for name, values in (("kernel_size", kernels), ("stride", strides), ("dilation", dilations))
        if min(values) < 1
    ]
    each = zip(input.shape[-n:], kernels, strides, paddings, dilations, strict=True)
    windows = tuple(Window(*numbers, ceil_mode) for numbers in each)
    if any(not 0 <= window.padding <= window.kernel // 2 for window in windows):
        wrong.append(f"expected padding from 0 to half of kernel_size, got {paddings} for {kernels}")
    if wrong:
        raise ShapeError("; ".join(wrong))
    if min(window.count for window in windows) < 1:
        least = tuple(window.reach - 2 * window.padding for window in windows)
        raise ShapeError(f"expected input with ({_SPATIAL[n]}) of at least {least}, got {describe(input)}")
    return windows


def adaptive_windows(n: int, input: jax.Array, output_size: OutputSize) -> tuple[Window, ...]:
    """As many windows in each of the `n` spatial dimensions as `output_size` asks for.

    Raises:
        ShapeError: `output_size` has another length, or is negative.
    """
    sizes = input.shape[-n:]
    wanted = tuple(output_size) if isinstance(output_size, Sequence) else (output_size,) * n
    if len(wanted) != n:
        raise ShapeError(f"expected output_size to be an int or {n} ints, got {output_size}")
    counts = to_tuple(
        [size if want is None else want for want, size in zip(wanted, sizes, strict=True)], n, "output_size"
    )
    if min(counts) < 0:
        raise ShapeError(f"expected output_size that is not negative, got {output_size}")
    return tuple(map(_adaptive_window, sizes, counts))


@partial(jax.jit, static_argnums=(1, 2))
def maxima(x: jax.Array, windows: tuple[Window, ...], return_indices: bool) -> Maxima:
    """The maximum over each window of the last axes of `x`, and where it stands."""
    if not return_indices:
        return _maximum(x, windows)
    values, indices = _first_maximum(x, windows)
    return values, indices.astype(int)


@partial(jax.jit, static_argnums=(1, 2, 3))
def averages(x: jax.Array, windows: tuple[Window, ...], include_pad: bool, divisor: int | None) -> jax.Array:
    """The sum over each window of the last axes of `x`, divided by `divisor` or by how much there is in the window."""
    # Narrow numbers are summed in 32 bits.
    wide = jnp.float32 if jnp.issubdtype(x.dtype, jnp.floating) else jnp.int32
    total = _sums(x.astype(wide) if x.dtype.itemsize < 4 else x, windows)
    if divisor is None:
        counts = np.ix_(*(_window_counts(window, include_pad=include_pad) for window in windows))
        parts = reduce(jnp.multiply, map(jnp.asarray, counts)).astype(total.dtype)
    else:
        parts = jnp.asarray(divisor, total.dtype)
    # Which cuts the quotient of integers towards zero, as PyTorch does.
    return lax.div(total, jnp.broadcast_to(parts, total.shape)).astype(x.dtype)


def at_indices(x: jax.Array, indices: jax.Array, n: int) -> jax.Array:
    """What stands in the last `n` axes of `x` at flat indices into them; 0 where there is nothing."""
    lead = x.shape[:-n]
    flat = x.reshape(*lead, math.prod(x.shape[-n:]))  # (..., *spatial) to (..., points)
    where = indices.reshape(*lead, math.prod(indices.shape[-n:]))
    return jnp.take_along_axis(flat, where, axis=-1, mode="fill", fill_value=0).reshape(indices.shape)


def _window_counts(window: Window, *, include_pad: bool) -> np.ndarray:
    """How many positions each window covers: of the axis, or of the axis and its padding on both sides."""
    if window.positions is not None:
        return (np.reshape(window.positions, (-1, window.kernel)) < window.size).sum(1)
    starts = np.arange(window.count) * window.stride - window.padding
    stops = np.minimum(starts + window.kernel, window.size + window.padding)
    if include_pad:
        return stops - starts
    return np.minimum(stops, window.size) - np.maximum(starts, 0)


def _sums(x: jax.Array, windows: Sequence[Window]) -> jax.Array:
    """The sum over each window of the last axes of `x`."""
    if _lie_apart(windows) and max(window.kernel for window in windows) > _SMALL:
        for axis, window in _axes(x, windows):
            x = _side_by_side(x, axis, window, 0)
        return lax.reduce_sum(x, tuple(range(x.ndim - 1, x.ndim - 1 - 2 * len(windows), -2)))
    return _axis_by_axis(x, windows, _Reduction(0, lax.add, lax.reduce_sum))


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _maximum(x: jax.Array, windows: tuple[Window, ...]) -> jax.Array:
    """The maximum over each window of the last axes of `x`, which costs less without its index."""
    maximum = _Reduction(_lowest(x.dtype), lax.max, lax.reduce_max)
    if not _lie_apart(windows):
        return _axis_by_axis(x, windows, maximum)
    if max(window.kernel for window in windows) > _SMALL:
        return _over_windows(x, _axes(x, windows), maximum)
    for axis, window in reversed(_axes(x, windows)):
        x = reduce(lax.max, _positions(x, axis, window))
    return x


def _lie_apart(windows: Sequence[Window]) -> bool:
    """Whether the windows share nothing, nor are unlike: then nothing is spared by going axis by axis."""
    return all(window.tiles and window.positions is None for window in windows)


def _axis_by_axis(x: jax.Array, windows: Sequence[Window], which: _Reduction) -> jax.Array:
    """The sum or maximum over each window: for a window of k times k that overlaps others, k + k operations instead of k².

    The first axis comes first, so that most operations are on whole rows. XLA reduces dimensions faster than windows, above
    all in the gradient of a sum.
    """
    for axis, window in reversed(_axes(x, windows)):
        if window.tiles and window.behind == 0:  # else a copy without the rest would cost more than it spares
            x = which.over_axes(_side_by_side(x, axis, window, which.nothing), (axis + 1,))
        else:
            x = _over_windows(x, [(axis, window)], which)
    return x


def _over_windows(x: jax.Array, axes: Sequence[tuple[int, Window]], which: _Reduction) -> jax.Array:
    """The sum or maximum over windows of these axes at once, by XLA's operation for it."""
    shape, strides, padding, dilation = [1] * x.ndim, [1] * x.ndim, [(0, 0)] * x.ndim, [1] * x.ndim
    for axis, window in axes:
        shape[axis], strides[axis], dilation[axis] = window.kernel, window.stride, window.dilation
        padding[axis] = (window.padding, max(window.behind, 0))
    nothing = np.array(which.nothing, x.dtype)
    return lax.reduce_window(x, nothing, which.of_two, shape, strides, padding, window_dilation=dilation)


@_maximum.defjvp
def _(
    windows: tuple[Window, ...], primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    values, index = _first_maximum(*primals, windows)
    return values, _picked(*tangents, index, windows)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _first_maximum(x: jax.Array, windows: tuple[Window, ...]) -> _Pair:
    """The maximum over each window of the last axes of `x`, and its flat index in them.

    Of equal maxima the first counts, and a NaN more than any number: the last one of a window, as in PyTorch.

    The maximum is found one axis after the other, the last one first, which keeps the order in which a window is read:
    the first row that holds the maximum, and in it the first column. Where the order does not matter, because indices are
    compared, the first axis comes first: whole rows are compared at once. The derivative needs the index alone: it picks
    the input's tangent there. (Left to itself, JAX would differentiate `reduce_window` into a `select_and_scatter`, which
    takes about ten times as long as this on a CPU, and a sum of `where`s keeps a mask for each position of the window.)
    """
    sizes = x.shape[-len(windows) :]
    pair = (x, jnp.broadcast_to(_places(sizes), x.shape))
    axes, by_index = _axes(x, windows), all(map(_by_index, windows))
    if by_index and _is_one(windows):
        whole = (_only_window(pair[0], windows), _only_window(pair[1], windows))
        return _first_in(whole, x.ndim, nowhere=math.prod(sizes))
    for axis, window in reversed(axes) if by_index else axes:
        if window.stride < window.reach and axis < x.ndim - 1:
            # Windows overlap: keeps XLA from computing the axis before again for each window that reads of it.
            pair = (lax.optimization_barrier(pair[0]), lax.optimization_barrier(pair[1]))
        pair = first_along(pair, axis, window, nowhere=math.prod(sizes))
    return pair


@_first_maximum.defjvp
def _(windows: tuple[Window, ...], primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[_Pair, _Pair]:
    values, index = _first_maximum(*primals, windows)
    return (values, index), (_picked(*tangents, index, windows), np.zeros(index.shape, jax.dtypes.float0))  # pyright: ignore[reportReturnType]


def _is_one(windows: Sequence[Window]) -> bool:
    return all(window.count == 1 for window in windows)


def _only_window(x: jax.Array, windows: Sequence[Window]) -> jax.Array:
    """The one window as an axis behind those that it covers, which keep size 1: to search all at once spares a pass."""
    kernels = [window.kernel for window in windows]
    cut = x[(..., *map(slice, kernels))]
    # (..., H, W) to (..., 1, 1, H · W)
    return cut.reshape(*x.shape[: -len(kernels)], *[1] * len(kernels), math.prod(kernels))


def _picked(x: jax.Array, index: jax.Array, windows: Sequence[Window]) -> jax.Array:
    """What stands in `x` at each window's index; where there is one, by a sum, whose transpose compares and scatters not."""
    n = len(windows)
    if not _is_one(windows):
        return at_indices(x, index, n)
    return jnp.sum(jnp.where(_places(x.shape[-n:]) == index, x, 0), tuple(range(-n, 0)), keepdims=True)


def _places(sizes: tuple[int, ...]) -> jax.Array:
    """The flat index of each point."""
    return lax.iota(jnp.int32, math.prod(sizes)).reshape(sizes)


def _axes(x: jax.Array, windows: Sequence[Window]) -> list[tuple[int, Window]]:
    """The last axes of `x` with their windows, the very last first."""
    return list(zip(range(x.ndim - 1, x.ndim - 1 - len(windows), -1), reversed(windows), strict=True))


def _side_by_side(x: jax.Array, axis: int, window: Window, fill: float) -> jax.Array:
    """The windows as one axis, `count` long, and their positions as the next one; `fill` for what a shorter window lacks."""
    if window.positions is not None:
        x = jnp.take(x, np.array(window.positions, np.int32), axis, mode="fill", fill_value=fill)
    x = lax.slice_in_dim(x, 0, window.count * window.kernel, axis=axis)
    # (..., count · kernel, ...) to (..., count, kernel, ...)
    return x.reshape(*x.shape[:axis], window.count, window.kernel, *x.shape[axis + 1 :])


def _by_index(window: Window) -> bool:
    return window.tiles and (window.positions is not None or window.kernel > _SMALL_TO_SEARCH)


def first_along(pair: _Pair, axis: int, window: Window, nowhere: int) -> _Pair:
    """The first maximum of each window of one axis; `nowhere` is the index of what is padding."""
    values, index = pair
    lowest = _lowest(values.dtype)
    if _by_index(window):
        pair = (_side_by_side(values, axis, window, lowest), _side_by_side(index, axis, window, nowhere))
        return _first_in(pair, axis + 1, nowhere)
    if window.padding or window.behind > 0:
        around = [(0, 0, 0)] * values.ndim
        around[axis] = (window.padding, max(window.behind, 0), 0)
        values = lax.pad(values, np.array(lowest, values.dtype), around)
        index = lax.pad(index, np.array(nowhere, index.dtype), around)
    better = partial(_better, nowhere=nowhere)
    if window.kernel <= _FEW:
        return reduce(better, zip(_positions(values, axis, window), _positions(index, axis, window), strict=True))
    pair, covered = (values, index), 1
    while covered < window.kernel:
        # Two windows of which one starts where the other ends, or before, make a longer one.
        shift = min(covered, window.kernel - covered)
        ends, further = pair[0].shape[axis] - window.dilation * shift, window.dilation * shift
        pair = better(_cut(pair, axis, 0, ends), _cut(pair, axis, further, ends + further))
        covered += shift
    return _cut(pair, axis, 0, (window.count - 1) * window.stride + 1, window.stride)


def _positions(x: jax.Array, axis: int, window: Window) -> list[jax.Array]:
    """The first position of each window of a padded axis, the second of each, and so on."""
    last = (window.count - 1) * window.stride
    starts = [window.dilation * k for k in range(window.kernel)]
    return [lax.slice_in_dim(x, start, start + last + 1, window.stride, axis) for start in starts]


def _first_in(pair: _Pair, axis: int, nowhere: int) -> _Pair:
    """The first maximum in an axis, which goes: of equal ones that of the lowest index, of NaNs that of the highest."""
    values, index = pair
    peak = jnp.max(values, axis, keepdims=True)
    # As floating numbers, where those are exact, for a CPU finds their minimum in half the time.
    number = index.astype(jnp.float32 if nowhere < 2**24 else jnp.int32)
    # Below 0 stands a NaN, the further the later it comes.
    place = jnp.where(values == peak, number, jnp.where(values != values, -1 - number, nowhere)).min(axis)
    return jnp.squeeze(peak, axis), jnp.where(place < 0, -1 - place, place).astype(index.dtype)


def _cut(pair: _Pair, axis: int, start: int, stop: int, stride: int = 1) -> _Pair:
    values, index = (lax.slice_in_dim(each, start, stop, stride, axis) for each in pair)
    return values, index


def _better(before: _Pair, after: _Pair, nowhere: int) -> _Pair:
    """The greater of two, and the first of equal ones, unless that one is padding."""
    (old, old_index), (new, new_index) = before, after
    wins = (new > old) | (new != new) | (old_index == nowhere)  # only a NaN is unlike itself
    return jnp.where(wins, new, old), jnp.where(wins, new_index, old_index)


def _lowest(dtype: jnp.dtype) -> float:
    return -math.inf if jnp.issubdtype(dtype, jnp.floating) else int(jnp.iinfo(dtype).min)
