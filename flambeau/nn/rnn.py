"""Recurrent layers over whole sequences: RNN, LSTM and GRU."""

from __future__ import annotations

import numbers
import warnings
from typing import Any, Literal

import jax
from jax.typing import DTypeLike

from flambeau._errors import FlambeauWarning
from flambeau.core.cell import Parameter
from flambeau.core.location import users_stacklevel
from flambeau.core.module import Module
from flambeau.nn._factory import parameter
from flambeau.nn._recurrent_cells import MODES, GRUCell, LSTMCell, RNNCell, RNNCellBase, draw_by_hidden_size
from flambeau.nn.functional._recurrent import GATES, State, Weights, recurrent
from flambeau.nn.utils.rnn import PackedSequence

__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNBase", "RNNCell", "RNNCellBase"]


class RNNBase(Module):
    """The settings and parameters that RNN, LSTM and GRU have in common; it has no `forward`.

    Layer k has the parameters `weight_ih_l{k}` `(G · H, in)`, `weight_hh_l{k}` `(G · H, P)`, `bias_ih_l{k}` and
    `bias_hh_l{k}` `(G · H,)`, and where there is a projection `weight_hr_l{k}` `(P, H)`; the backward direction has
    those with `_reverse` at the end of the name. H is `hidden_size`, G is 1, 4 for an LSTM or 3 for a GRU, and P is
    `proj_size`, or H if that is 0. All are drawn from U(-√k, √k) with k = 1 / H.

    Args:
        mode: `RNN_TANH`, `RNN_RELU`, `LSTM` or `GRU`.
        input_size: the number of input features.
        hidden_size: the number of hidden features.
        num_layers: how many layers lie on top of one another.
        bias: whether there are biases.
        batch_first: whether input and output are `(N, T, *)` instead of `(T, N, *)`.
        dropout: the probability of zero, in training, in what a layer reads of the one below.
        bidirectional: whether each layer also runs from the end to the beginning.
        proj_size: to how many features the hidden ones are projected, if not 0.
        device: where the parameters lie.
        dtype: their dtype.

    Raises:
        ValueError: a size is not positive, `proj_size` is not between 0 and `hidden_size`, `dropout` is no number in
            [0, 1], or there is no such mode.
        TypeError: a size is no int, or `bias` or `batch_first` no bool.

    Example:
        >>> from flambeau import nn
        >>> [[each.shape for each in layer] for layer in nn.RNNBase("GRU", 4, 3, bias=False).all_weights]
        [[(9, 4), (9, 3)]]

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.RNNBase.html
    """

    def __init__(
        self,
        mode: str,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        super().__init__()
        self.mode = mode
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = dropout
        self.bidirectional = bidirectional
        self.proj_size = proj_size
        self._check_settings()
        self.dropout = float(dropout)
        for layer in range(num_layers):
            for direction in range(2 if bidirectional else 1):
                for name, shape in self._shapes(layer, direction).items():
                    self.register_parameter(name, parameter(shape, device, dtype))
        self.reset_parameters()

    def _check_settings(self) -> None:
        for name in ("bias", "batch_first"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} should be of type bool, got: {type(getattr(self, name)).__name__}")
        for name in ("input_size", "hidden_size"):
            if not isinstance(getattr(self, name), int):
                raise TypeError(f"{name} should be of type int, got: {type(getattr(self, name)).__name__}")
        wrong = [
            f"{name} must be greater than zero, got {getattr(self, name)}"
            for name in ("input_size", "hidden_size", "num_layers")
            if getattr(self, name) <= 0
        ]
        if not 0 <= self.proj_size < max(self.hidden_size, 1):
            wrong.append(f"expected proj_size of 0, or smaller than hidden_size, got {self.proj_size}")
        p = self.dropout
        if not isinstance(p, numbers.Real) or isinstance(p, bool) or not 0 <= p <= 1:
            wrong.append(f"expected dropout to be a number in [0, 1], got {p!r}")
        if self.mode not in GATES:
            wrong.append(f"expected mode to be one of {', '.join(GATES)}, got {self.mode!r}")
        if wrong:
            raise ValueError("; ".join(wrong))
        if p > 0 and self.num_layers == 1:
            message = f"dropout={p} does nothing: it comes between layers, and num_layers is 1"
            warnings.warn(message, FlambeauWarning, stacklevel=users_stacklevel())

    def _shapes(self, layer: int, direction: int) -> dict[str, tuple[int, ...]]:
        """The names and shapes of the parameters of one layer in one direction, in the order of the fields of `Weights`."""
        gates, out = GATES[self.mode] * self.hidden_size, self.proj_size or self.hidden_size
        features = out * (2 if self.bidirectional else 1) if layer > 0 else self.input_size
        suffix = f"l{layer}{'_reverse' if direction else ''}"
        shapes: dict[str, tuple[int, ...]] = {f"weight_ih_{suffix}": (gates, features)}
        shapes[f"weight_hh_{suffix}"] = (gates, out)
        if self.bias:
            shapes[f"bias_ih_{suffix}"] = shapes[f"bias_hh_{suffix}"] = (gates,)
        if self.proj_size:
            shapes[f"weight_hr_{suffix}"] = (self.proj_size, self.hidden_size)
        return shapes

    def _names(self) -> list[list[dict[str, str]]]:
        """For each layer and direction, the parameters' names by the fields of `Weights`."""
        directions = range(2 if self.bidirectional else 1)
        return [
            [{_field(name): name for name in self._shapes(layer, direction)} for direction in directions]
            for layer in range(self.num_layers)
        ]

    @property
    def all_weights(self) -> list[list[Parameter]]:
        """The parameters of each layer and direction."""
        return [
            [self.get_parameter(name) for name in names.values()]
            for directions in self._names()
            for names in directions
        ]

    def flatten_parameters(self) -> None:
        """Does nothing: XLA lays arrays out as it needs them. It is there so that code written for PyTorch runs."""

    def reset_parameters(self) -> None:
        """Draws the parameters anew."""
        draw_by_hidden_size(self, self.hidden_size)

    def _run(self, input: Any, state: State | None) -> tuple[Any, State]:
        """Output and last state of sequences, which may be packed."""
        layers = [
            [Weights(**{field: getattr(self, name) for field, name in names.items()}) for names in directions]
            for directions in self._names()
        ]
        p = self.dropout if self.training else 0.0
        if not isinstance(input, PackedSequence):
            return recurrent(self.mode, input, state, layers, p, self.batch_first)
        data, batch_sizes, order, inverse = input
        orders = None if order is None else (order, inverse)
        output, last = recurrent(self.mode, data, state, layers, p, batch_sizes=batch_sizes, order=orders)
        return PackedSequence(output, batch_sizes, order, inverse), last

    def extra_repr(self) -> str:
        parts = [f"{self.input_size}, {self.hidden_size}"]
        usual = {
            "proj_size": 0,
            "num_layers": 1,
            "bias": True,
            "batch_first": False,
            "dropout": 0,
            "bidirectional": False,
        }
        parts += [f"{name}={getattr(self, name)}" for name, value in usual.items() if getattr(self, name) != value]
        return ", ".join(parts)


def _field(name: str) -> str:
    """The field of `Weights` that a parameter such as `weight_hh_l0` belongs to."""
    kind, which, _ = name.split("_", 2)
    return which if kind == "weight" else f"{kind}_{which}"


class RNN(RNNBase):
    """Elman's recurrent network: hₜ = tanh(Wᵢₕ xₜ + bᵢₕ + Wₕₕ hₜ₋₁ + bₕₕ), or with ReLU for tanh.

    Args:
        input_size: the number of input features.
        hidden_size: the number of hidden features H.
        num_layers: how many layers L lie on top of one another.
        nonlinearity: `tanh` or `relu`.
        bias: whether there are biases.
        batch_first: whether input and output are `(N, T, *)` instead of `(T, N, *)`.
        dropout: the probability of zero, in training, in what a layer reads of the one below.
        bidirectional: whether each layer also runs from the end to the beginning; then D is 2, else 1.
        device: where the parameters lie.
        dtype: their dtype.

    Shape:
        input `(T, N, in)`, `(N, T, in)` if `batch_first`, `(T, in)`, or a `PackedSequence`; hx, zeros if None,
        `(L · D, N, H)`, or `(L · D, H)` for an input without N. The result is the output of the last layer, like input
        with D · H features, and the last state, like hx.

    Raises:
        ValueError: a setting is out of its range (see `RNNBase`).
        ShapeError: the input or hx has another shape.
        DtypeError: they differ in dtype from the parameters.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> rnn = nn.RNN(10, 20, 2)
        >>> output, hidden = rnn(jnp.ones((5, 3, 10)), jnp.zeros((2, 3, 20)))
        >>> output.shape, hidden.shape
        ((5, 3, 20), (2, 3, 20))

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.RNN.html
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: Literal["tanh", "relu"] = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        if nonlinearity not in MODES:
            raise ValueError(f"expected nonlinearity 'tanh' or 'relu', got {nonlinearity!r}")
        mode = MODES[nonlinearity]
        super().__init__(
            mode, input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0, device, dtype
        )
        self.nonlinearity = nonlinearity

    def forward(self, input: Any, hx: jax.Array | None = None) -> tuple[Any, jax.Array]:
        output, (hidden,) = self._run(input, None if hx is None else (hx,))
        return output, hidden


class LSTM(RNNBase):
    """Long short-term memory, which keeps a cell state c next to the output h.

    i, f, o = σ(Wᵢₕ xₜ + bᵢₕ + Wₕₕ hₜ₋₁ + bₕₕ), g = tanh of the same, each with its rows of the parameters, in the order
    i, f, g, o; cₜ = f · cₜ₋₁ + i · g; hₜ = o · tanh(cₜ), and with `proj_size` hₜ = Wₕᵣ (o · tanh(cₜ)).

    Args:
        input_size: the number of input features.
        hidden_size: the number of hidden features H.
        num_layers: how many layers L lie on top of one another.
        bias: whether there are biases.
        batch_first: whether input and output are `(N, T, *)` instead of `(T, N, *)`.
        dropout: the probability of zero, in training, in what a layer reads of the one below.
        bidirectional: whether each layer also runs from the end to the beginning; then D is 2, else 1.
        proj_size: to how many features P the output is projected, if not 0; else P is H.
        device: where the parameters lie.
        dtype: their dtype.

    Shape:
        input `(T, N, in)`, `(N, T, in)` if `batch_first`, `(T, in)`, or a `PackedSequence`; hx, zeros if None, is a pair
        of h `(L · D, N, P)` and c `(L · D, N, H)`, both without N if the input is. The result is the output of the last
        layer, like input with D · P features, and the last h and c as a pair.

    Raises:
        ValueError: a setting is out of its range (see `RNNBase`).
        ShapeError: the input or hx has another shape.
        DtypeError: they differ in dtype from the parameters.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> rnn = nn.LSTM(10, 20, 2, bidirectional=True)
        >>> output, (hidden, cell) = rnn(jnp.ones((5, 3, 10)))
        >>> output.shape, hidden.shape, cell.shape
        ((5, 3, 40), (4, 3, 20), (4, 3, 20))

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.LSTM.html
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        super().__init__(
            "LSTM",
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            proj_size,
            device,
            dtype,
        )

    def forward(
        self, input: Any, hx: tuple[jax.Array, jax.Array] | None = None
    ) -> tuple[Any, tuple[jax.Array, jax.Array]]:
        output, (hidden, cell) = self._run(input, None if hx is None else tuple(hx))
        return output, (hidden, cell)


class GRU(RNNBase):
    """Gated recurrent units: hₜ = (1 - z) · n + z · hₜ₋₁.

    r, z = σ(Wᵢₕ xₜ + bᵢₕ + Wₕₕ hₜ₋₁ + bₕₕ), n = tanh(Wᵢₕ xₜ + bᵢₕ + r · (Wₕₕ hₜ₋₁ + bₕₕ)), each with its rows of the
    parameters, in the order r, z, n. As in PyTorch, r comes after the product with Wₕₕ, and not before as in the paper.

    Args:
        input_size: the number of input features.
        hidden_size: the number of hidden features H.
        num_layers: how many layers L lie on top of one another.
        bias: whether there are biases.
        batch_first: whether input and output are `(N, T, *)` instead of `(T, N, *)`.
        dropout: the probability of zero, in training, in what a layer reads of the one below.
        bidirectional: whether each layer also runs from the end to the beginning; then D is 2, else 1.
        device: where the parameters lie.
        dtype: their dtype.

    Shape:
        input `(T, N, in)`, `(N, T, in)` if `batch_first`, `(T, in)`, or a `PackedSequence`; hx, zeros if None,
        `(L · D, N, H)`, or `(L · D, H)` for an input without N. The result is the output of the last layer, like input
        with D · H features, and the last state, like hx.

    Raises:
        ValueError: a setting is out of its range (see `RNNBase`).
        ShapeError: the input or hx has another shape.
        DtypeError: they differ in dtype from the parameters.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> output, hidden = nn.GRU(10, 20, batch_first=True)(jnp.ones((3, 5, 10)))
        >>> output.shape, hidden.shape
        ((3, 5, 20), (1, 3, 20))

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.GRU.html
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        super().__init__(
            "GRU", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0, device, dtype
        )

    def forward(self, input: Any, hx: jax.Array | None = None) -> tuple[Any, jax.Array]:
        output, (hidden,) = self._run(input, None if hx is None else (hx,))
        return output, hidden
