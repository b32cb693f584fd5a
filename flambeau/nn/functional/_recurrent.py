"""Recurrent networks: one time step of RNN, LSTM and GRU, and several layers of them over whole sequences."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from flambeau._errors import ShapeError
from flambeau.nn.functional._autocast import lowered
from flambeau.nn.functional._checks import check_rank, check_same_dtype, describe
from flambeau.nn.functional._math import widen
from flambeau.nn.functional._packing import pack, pad_packed, which_are_there
from flambeau.nn.functional.dropout import dropout
from flambeau.nn.functional.linear import linear

if TYPE_CHECKING:
    from flambeau.core.random import Generator

__all__ = ["GATES", "State", "Weights", "recurrent", "recurrent_cell"]

State: TypeAlias = tuple[jax.Array, ...]
"""The hidden state h, and for an LSTM the cell state c."""
Indices: TypeAlias = jax.Array | np.ndarray


class Weights(NamedTuple):
    """The parameters of one layer in one direction, for H hidden features, an output of P = H features and G gates."""

    ih: jax.Array
    """From the input, `(G · H, in)`."""
    hh: jax.Array
    """From the output of the step before, `(G · H, P)`."""
    bias_ih: jax.Array | None = None
    """`(G · H,)`."""
    bias_hh: jax.Array | None = None
    """`(G · H,)`."""
    hr: jax.Array | None = None
    """What makes the output of the hidden features, `(P, H)`; only for that is P another number than H."""


# -- one time step ------------------------------------------------------------------------------------------------------


def _tanh(fresh: jax.Array, fed_back: jax.Array, state: State) -> State:
    return (jnp.tanh(fresh + fed_back),)


def _relu(fresh: jax.Array, fed_back: jax.Array, state: State) -> State:
    return (jax.nn.relu(fresh + fed_back),)


def _lstm(fresh: jax.Array, fed_back: jax.Array, state: State) -> State:
    into, forget, value, out = jnp.split(fresh + fed_back, 4, axis=-1)
    cell = lax.logistic(forget) * state[1] + lax.logistic(into) * jnp.tanh(value)
    return lax.logistic(out) * jnp.tanh(cell), cell


def _gru(fresh: jax.Array, fed_back: jax.Array, state: State) -> State:
    (reset, update, value), (fed_reset, fed_update, fed_value) = (
        jnp.split(gates, 3, axis=-1) for gates in (fresh, fed_back)
    )
    kept = lax.logistic(update + fed_update)
    value = jnp.tanh(value + lax.logistic(reset + fed_reset) * fed_value)
    return ((1 - kept) * value + kept * state[0],)


_STEPS: dict[str, Callable[[jax.Array, jax.Array, State], State]] = {
    "RNN_TANH": _tanh,
    "RNN_RELU": _relu,
    "LSTM": _lstm,
    "GRU": _gru,
}
GATES = {"RNN_TANH": 1, "RNN_RELU": 1, "LSTM": 4, "GRU": 3}
"""The modes, by PyTorch's names, and how many gates each has."""

# From so many rows on a CPU is faster with a product for each time step than with one for all of them.
_MANY_ROWS = 8


def _step(mode: str, fresh: jax.Array, state: State, weights: Weights) -> State:
    """The next state, from the gates `fresh` `(N, G · H)` that the input gives alone and the state `(N, P)`, `(N, H)`."""
    fed_back = linear(state[0], weights.hh, weights.bias_hh)
    hidden, *cell = _STEPS[mode](widen(fresh), widen(fed_back), tuple(map(widen, state)))
    new = tuple(each.astype(fresh.dtype) for each in (hidden, *cell))
    return new if weights.hr is None else (linear(new[0], weights.hr), *new[1:])


# -- whole sequences ----------------------------------------------------------------------------------------------------


# Compiled as a whole, for JAX compiles a scan that it meets outside of a compiled function anew at each call.
@functools.partial(jax.jit, static_argnames=("mode", "reverse"))
def _layer(
    mode: str, input: jax.Array, state: State, weights: Weights, there: np.ndarray | None, reverse: bool
) -> tuple[jax.Array, State]:
    """One layer in one direction: input `(T, N, in)` to output `(T, N, P)` and the last state.

    Where a sequence has ended, `there` `(T, N, 1)` is False and the state stays: in reverse, at what it begins with.

    What the input gives to the gates does not depend on the state, so that one product can give it for all time steps. A
    CPU gains from that where a step has few rows. Where it has many, a product for each step is as fast, and is used while
    it is still in the cache: measured on two cores, that takes half to all of the time.
    """
    at_once, step_by_step = (functools.partial(_steps, mode, reverse, at_once=each) for each in (True, False))
    if isinstance(input.shape[1], int) and input.shape[1] < _MANY_ROWS:  # and no symbol, as in what is exported
        return at_once(input, state, weights, there)
    return lax.platform_dependent(input, state, weights, there, cpu=step_by_step, default=at_once)


def _steps(
    mode: str,
    reverse: bool,
    input: jax.Array,
    state: State,
    weights: Weights,
    there: np.ndarray | None,
    at_once: bool,
) -> tuple[jax.Array, State]:
    """One layer in one direction, as a loop over the time steps."""

    def gates(input: jax.Array) -> jax.Array:
        return linear(input, weights.ih, weights.bias_ih)

    def step(state: State, given: tuple[jax.Array, jax.Array | np.ndarray | None]) -> tuple[State, jax.Array]:
        fresh, real = given
        new = _step(mode, fresh if at_once else gates(fresh), state, weights)
        if real is not None:
            new = tuple(jnp.where(real, after, before) for after, before in zip(new, state, strict=True))
        return new, new[0]

    last, output = lax.scan(step, state, (gates(input) if at_once else input, there), reverse=reverse)
    return output, last


def _layers(
    mode: str,
    input: jax.Array,
    state: State,
    layers: Sequence[Sequence[Weights]],
    there: np.ndarray | None,
    p: float,
    generator: Generator | None,
) -> tuple[jax.Array, State]:
    """All layers, in their directions: input `(T, N, in)`, state `(L · D, N, P)` and `(L · D, N, H)`."""
    finals: list[State] = []
    for i, directions in enumerate(layers):
        if i > 0:
            input = dropout(input, p, generator=generator)
        outputs = []
        for reverse, weights in enumerate(directions):
            first = tuple(part[len(finals)] for part in state)
            output, last = _layer(mode, input, first, weights, there, reverse=bool(reverse))
            outputs.append(output)
            finals.append(last)
        input = jnp.concatenate(outputs, axis=-1) if len(outputs) > 1 else outputs[0]
    return input, tuple(jnp.stack(parts) for parts in zip(*finals, strict=True))


def recurrent(
    mode: str,
    input: jax.Array,
    state: State | None,
    layers: Sequence[Sequence[Weights]],
    dropout: float = 0.0,
    batch_first: bool = False,
    batch_sizes: np.ndarray | None = None,
    order: tuple[Indices, Indices] | None = None,
    *,
    generator: Generator | None = None,
) -> tuple[jax.Array, State]:
    """Runs sequences through recurrent layers: hₜ = f(Wᵢₕ xₜ + bᵢₕ, Wₕₕ hₜ₋₁ + bₕₕ), of which each layer reads the one below.

    Args:
        mode: `RNN_TANH`, `RNN_RELU`, `LSTM` or `GRU`.
        input: the sequences.
        state: what each layer and direction begins with, h or for an LSTM h and c; zeros if None.
        layers: for each layer the weights of its one direction or its two.
        dropout: the probability of zero in what a layer reads of the one below.
        batch_first: whether the batch dimension of `input` and output comes before the time.
        batch_sizes: for packed sequences, how many of them have each time step.
        order: in which order packed sequences stand of those that the state belongs to, and the inverse permutation.
        generator: where the dropout comes from; the default generator if None.

    Shape:
        input `(T, N, in)`, `(N, T, in)` if `batch_first`, `(T, in)`, or packed `(sum of batch_sizes, in)`;
        h `(L · D, N, P)` and c `(L · D, N, H)`, without N if the input is; output like input, with D · P for in.

    Raises:
        ShapeError: the input or the state has another shape, or there is no time step.
        DtypeError: the arguments differ in dtype.

    Example:
        >>> weights = Weights(jnp.ones((1, 1)), jnp.ones((1, 1)))
        >>> output, (hidden,) = recurrent("RNN_RELU", jnp.array([[1.0], [2.0], [3.0]]), None, [[weights]])
        >>> output.ravel(), hidden
        (Array([1., 3., 6.], dtype=float32), Array([[6.]], dtype=float32))

    Source: https://docs.pytorch.org/docs/2.13/nn.html#recurrent-layers
    """
    input, layers = lowered(input), [[Weights(*lowered(*weights)) for weights in layer] for layer in layers]
    state = None if state is None else tuple(map(lowered, state))
    _check_input(input, layers[0][0], batch_first, packed=batch_sizes is not None)
    there, batched = None, input.ndim == 3 or batch_sizes is not None
    if batch_sizes is not None:
        there = which_are_there(batch_sizes)[..., None]
        input = pad_packed(input, batch_sizes)
    elif not batched:
        input = input[:, None]
    elif batch_first:
        input = jnp.swapaxes(input, 0, 1)
    if input.shape[0] == 0:
        raise ShapeError("expected sequences of one time step or more, got none")
    state = _initial(mode, input, state, layers, batched)
    if order is not None:
        state = tuple(part[:, order[0]] for part in state)
    output, last = _layers(mode, input, state, layers, there, dropout, generator)
    if order is not None:
        last = tuple(part[:, order[1]] for part in last)
    if batch_sizes is not None:
        return pack(output, batch_sizes), last
    if not batched:
        return output[:, 0], tuple(part[:, 0] for part in last)
    return jnp.swapaxes(output, 0, 1) if batch_first else output, last


def _check_input(input: jax.Array, weights: Weights, batch_first: bool, packed: bool) -> None:
    features = weights.ih.shape[1]
    expected = f"({'N, T' if batch_first else 'T, N'}, {features}) or (T, {features})"
    if packed:
        expected = f"of packed sequences (*, {features})"
    check_rank(input, 2 if packed else (2, 3), expected)
    if input.shape[-1] != features:
        raise ShapeError(f"expected input {expected}, got {describe(input)}")
    check_same_dtype(input, weight=weights.ih)


def _initial(
    mode: str, input: jax.Array, state: State | None, layers: Sequence[Sequence[Weights]], batched: bool
) -> State:
    """The state that the layers begin with, `(L · D, N, P)` and `(L · D, N, H)`, from the one given, which is checked."""
    shapes = _state_shapes(mode, layers[0][0], (sum(map(len, layers)), input.shape[1]))
    if state is None:
        return tuple(jnp.zeros(shape, input.dtype) for shape in shapes)
    wanted = shapes if batched else [(shape[0], shape[2]) for shape in shapes]
    _check_state(input, state, wanted)
    return state if batched else tuple(part[:, None] for part in state)


def _state_shapes(mode: str, weights: Weights, leading: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The shapes of h and, for an LSTM, of c."""
    hidden = weights.hh.shape[0] // GATES[mode]
    shapes = [(*leading, weights.hh.shape[1])]
    return [*shapes, (*leading, hidden)] if mode == "LSTM" else shapes


def _check_state(input: jax.Array, state: State, shapes: list[tuple[int, ...]]) -> None:
    names = ("h_0", "c_0")[: len(state)] if len(shapes) > 1 else ("hx",)
    if len(state) != len(shapes):
        raise ShapeError(f"expected hx to be a pair of h_0 {shapes[0]} and c_0 {shapes[1]}, got {len(state)} arrays")
    wrong = [
        f"expected {name} {shape}, got {describe(part)}"
        for name, part, shape in zip(names, state, shapes, strict=True)
        if part.shape != shape
    ]
    if wrong:
        raise ShapeError("; ".join(wrong))
    check_same_dtype(input, **dict(zip(names, state, strict=True)))


# -- cells --------------------------------------------------------------------------------------------------------------


def recurrent_cell(mode: str, input: jax.Array, state: State | None, weights: Weights) -> State:
    """One time step: h' = f(Wᵢₕ x + bᵢₕ, Wₕₕ h + bₕₕ).

    Args:
        mode: `RNN_TANH`, `RNN_RELU`, `LSTM` or `GRU`.
        input: the features x.
        state: h, or for an LSTM h and c; zeros if None.
        weights: the parameters.

    Shape:
        input `(N, in)` or `(in,)`, h `(N, P)` and c `(N, H)`, without N if the input is; result like h and c.

    Raises:
        ShapeError: the input or the state has another shape.
        DtypeError: the arguments differ in dtype.

    Example:
        >>> weights = Weights(jnp.ones((1, 1)), jnp.ones((1, 1)))
        >>> recurrent_cell("RNN_RELU", jnp.array([1.0]), (jnp.array([2.0]),), weights)
        (Array([3.], dtype=float32),)

    Source: https://docs.pytorch.org/docs/2.13/nn.html#recurrent-layers
    """
    input, weights = lowered(input), Weights(*lowered(*weights))
    state = None if state is None else tuple(map(lowered, state))
    features = weights.ih.shape[1]
    expected = f"(N, {features}) or ({features},)"
    check_rank(input, (1, 2), expected)
    if input.shape[-1] != features:
        raise ShapeError(f"expected input {expected}, got {describe(input)}")
    shapes = _state_shapes(mode, weights, input.shape[:-1])
    if state is None:
        state = tuple(jnp.zeros(shape, input.dtype) for shape in shapes)
    else:
        _check_state(input, state, shapes)
    return _step(mode, linear(input, weights.ih, weights.bias_ih), state, weights)
