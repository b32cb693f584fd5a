"""Cells of recurrent networks, for one time step."""

from __future__ import annotations

import math
from typing import Any, Literal

import jax
from jax.typing import DTypeLike

from flambeau.core.module import Module
from flambeau.nn import init
from flambeau.nn._factory import parameter
from flambeau.nn.functional._recurrent import State, Weights, recurrent_cell

__all__ = ["MODES", "GRUCell", "LSTMCell", "RNNCell", "RNNCellBase", "draw_by_hidden_size"]

MODES = {"tanh": "RNN_TANH", "relu": "RNN_RELU"}
"""The mode of an RNN with each nonlinearity."""


def draw_by_hidden_size(module: Module, hidden_size: int) -> None:
    """Draws every parameter uniformly within ±1/√hidden_size."""
    bound = 1 / math.sqrt(hidden_size) if hidden_size > 0 else 0.0
    for each in module.parameters():
        init.uniform_(each, -bound, bound)


class RNNCellBase(Module):
    """The parameters that the cells have in common; it has no `forward`.

    They are `weight_ih` `(G · H, in)`, `weight_hh` `(G · H, H)`, `bias_ih` and `bias_hh` `(G · H,)`, all drawn from
    U(-√k, √k) with k = 1 / H.

    Args:
        input_size: the number of input features.
        hidden_size: the number of hidden features H.
        bias: whether there are biases.
        num_chunks: the number of gates G.
        device: where the parameters lie.
        dtype: their dtype.

    Example:
        >>> from flambeau import nn
        >>> nn.RNNCellBase(4, 3, True, num_chunks=2).weight_ih.shape
        (6, 4)

    Source: https://docs.pytorch.org/docs/2.13/nn.html#recurrent-layers
    """

    weight_ih: jax.Array
    weight_hh: jax.Array
    bias_ih: jax.Array | None
    bias_hh: jax.Array | None

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool,
        num_chunks: int,
        device: Any = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        gates = num_chunks * hidden_size
        self.register_parameter("weight_ih", parameter((gates, input_size), device, dtype))
        self.register_parameter("weight_hh", parameter((gates, hidden_size), device, dtype))
        for name in ("bias_ih", "bias_hh"):
            self.register_parameter(name, parameter((gates,), device, dtype) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the parameters anew."""
        draw_by_hidden_size(self, self.hidden_size)

    def _run(self, mode: str, input: jax.Array, state: State | None) -> State:
        weights = Weights(self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
        return recurrent_cell(mode, input, state, weights)

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias is True else f", bias={self.bias}")


class RNNCell(RNNCellBase):
    """One time step of an RNN: h' = tanh(Wᵢₕ x + bᵢₕ + Wₕₕ h + bₕₕ), or with ReLU for tanh.

    Args:
        input_size: the number of input features.
        hidden_size: the number of hidden features H.
        bias: whether there are biases.
        nonlinearity: `tanh` or `relu`.
        device: where the parameters lie.
        dtype: their dtype.

    Shape:
        input `(N, in)` or `(in,)`; hx, zeros if None, and the result `(N, H)` or `(H,)`.

    Raises:
        ShapeError: the input or hx has another shape.
        DtypeError: they differ in dtype from the parameters.
        RuntimeError: there is no such `nonlinearity`; raised at the call, as in PyTorch.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> cell, hidden = nn.RNNCell(10, 20), jnp.zeros((3, 20))
        >>> for x in jnp.ones((6, 3, 10)):
        ...     hidden = cell(x, hidden)
        >>> hidden.shape
        (3, 20)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.RNNCell.html
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: Literal["tanh", "relu"] = "tanh",
        device: Any = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 1, device, dtype)
        self.nonlinearity = nonlinearity

    def forward(self, input: jax.Array, hx: jax.Array | None = None) -> jax.Array:
        if self.nonlinearity not in MODES:
            raise RuntimeError(f"expected nonlinearity 'tanh' or 'relu', got {self.nonlinearity!r}")
        return self._run(MODES[self.nonlinearity], input, None if hx is None else (hx,))[0]

    def extra_repr(self) -> str:
        usual = self.nonlinearity == "tanh"
        return super().extra_repr() + ("" if usual else f", nonlinearity={self.nonlinearity}")


class LSTMCell(RNNCellBase):
    """One time step of an LSTM: c' = f · c + i · g and h' = o · tanh(c'), with the gates of `LSTM`.

    Args:
        input_size: the number of input features.
        hidden_size: the number of hidden features H.
        bias: whether there are biases.
        device: where the parameters lie.
        dtype: their dtype.

    Shape:
        input `(N, in)` or `(in,)`; hx, zeros if None, and the result are pairs of h and c, each `(N, H)` or `(H,)`.

    Raises:
        ShapeError: the input or hx has another shape.
        DtypeError: they differ in dtype from the parameters.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> hidden, cell = nn.LSTMCell(10, 20)(jnp.ones((3, 10)))
        >>> hidden.shape, cell.shape
        ((3, 20), (3, 20))

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.LSTMCell.html
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 4, device, dtype)

    def forward(self, input: jax.Array, hx: tuple[jax.Array, jax.Array] | None = None) -> tuple[jax.Array, jax.Array]:
        hidden, cell = self._run("LSTM", input, None if hx is None else tuple(hx))
        return hidden, cell


class GRUCell(RNNCellBase):
    """One time step of a GRU: h' = (1 - z) · n + z · h, with the gates of `GRU`.

    Args:
        input_size: the number of input features.
        hidden_size: the number of hidden features H.
        bias: whether there are biases.
        device: where the parameters lie.
        dtype: their dtype.

    Shape:
        input `(N, in)` or `(in,)`; hx, zeros if None, and the result `(N, H)` or `(H,)`.

    Raises:
        ShapeError: the input or hx has another shape.
        DtypeError: they differ in dtype from the parameters.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.GRUCell(10, 20)(jnp.ones((3, 10))).shape
        (3, 20)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.GRUCell.html
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 3, device, dtype)

    def forward(self, input: jax.Array, hx: jax.Array | None = None) -> jax.Array:
        return self._run("GRU", input, None if hx is None else (hx,))[0]
