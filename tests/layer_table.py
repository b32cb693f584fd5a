"""One row, or a few, for each layer: how to make it, with what to call it, and what is special about it.

`make` is called with `torch.nn` and with `flambeau.nn`, and so makes twins. `tests/nn/test_layers.py` takes every row
through parity, `jit`, gradients, `vmap`, data types, state dicts, `repr` and copies.

    row("Linear", lambda nn: nn.Linear(4, 3), normal(2, 4))

is a whole row. Further rows of a class are told apart by `case="..."`.
"""

from __future__ import annotations

import sys
import warnings
import zlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["ROWS", "Row", "array"]


def _call(net: Any, *inputs: Any) -> Any:
    return net(*inputs)


@dataclass(frozen=True, eq=False)
class Row:
    """A layer and what to do with it."""

    name: str
    """The class."""
    make: Callable[[Any], Any]
    """Makes it from `torch.nn` or `flambeau.nn`."""
    inputs: tuple[np.ndarray, ...]
    """Floating ones are float64, and are cast where another dtype is tried."""
    case: str = ""
    call: Callable[..., Any] = _call
    """How it is used, for what has no `forward`, or one that takes other things than arrays."""
    random: bool = False
    """Whether what it does in training is random, so that torch's numbers are others."""
    fixed: tuple[int, ...] = ()
    """Which floating inputs torch does not differentiate with respect to."""
    tolerance: float = 1e-9
    """How near the numbers have to be to torch's, where that computes with rounded constants."""

    @property
    def id(self) -> str:
        return f"{self.name}-{self.case}" if self.case else self.name


ROWS: list[Row] = []


def row(name: str, make: Callable[[Any], Any], *inputs: np.ndarray, **special: Any) -> None:
    ROWS.append(Row(name, make, inputs, **special))


def _numbers(shape: tuple[int, ...], what: str) -> np.random.Generator:
    return np.random.default_rng([zlib.crc32(what.encode()), *shape])


def normal(*shape: int, what: str = "") -> np.ndarray:
    """Numbers around zero, the same in each run; `what` tells apart those of one shape."""
    return _numbers(shape, what).normal(size=shape)


def unit(*shape: int, what: str = "unit") -> np.ndarray:
    """Numbers between 0 and 1, not too near to either."""
    return _numbers(shape, what).uniform(0.05, 0.95, shape)


def signs(*shape: int) -> np.ndarray:
    """1 and -1."""
    return np.sign(normal(*shape, what="signs"))


def below(high: int, *shape: int) -> np.ndarray:
    """Integers from 0 to `high` - 1."""
    return _numbers(shape, "below").integers(high, size=shape)


def array(nn: Any, values: Any) -> Any:
    """An array, in float32, of the library that `nn` belongs to."""
    values = np.asarray(values, np.float32)
    if nn.__name__.startswith("torch"):
        return sys.modules["torch"].tensor(values)
    return sys.modules["jax.numpy"].asarray(values)


# -- containers ---------------------------------------------------------------------------------------------------------


def _two(nn: Any) -> list[Any]:
    return [nn.Linear(4, 5), nn.Linear(5, 3)]


row("Sequential", lambda nn: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)), normal(2, 4))
row("Sequential", lambda nn: nn.Sequential(OrderedDict(a=nn.Linear(4, 5), b=nn.Tanh())), normal(2, 4), case="named")
row("ModuleList", lambda nn: nn.ModuleList(_two(nn)), normal(2, 4), call=lambda net, x: net[1](net[0](x)))
row(
    "ModuleDict",
    lambda nn: nn.ModuleDict({"in": nn.Linear(4, 5), "out": nn.Linear(5, 3)}),
    normal(2, 4),
    call=lambda net, x: net["out"](net["in"](x)),
)
row(
    "ParameterList",
    lambda nn: nn.ParameterList([array(nn, [1.0, 2.0]), array(nn, [[3.0, 4.0]]), 5]),
    normal(3, 2),
    call=lambda net, x: x * net[0] + net[1] * net[2],
)
row(
    "ParameterDict",
    lambda nn: nn.ParameterDict({"scale": array(nn, [1.0, 2.0]), "power": 2}),
    normal(3, 2),
    call=lambda net, x: net["scale"] * x ** net["power"],
)

# -- linear -------------------------------------------------------------------------------------------------------------

row("Identity", lambda nn: nn.Identity(3, unused=True), normal(2, 4))
row("Linear", lambda nn: nn.Linear(4, 3), normal(2, 5, 4))
row("Linear", lambda nn: nn.Linear(4, 3, bias=False), normal(4), case="vector")
row("Bilinear", lambda nn: nn.Bilinear(3, 4, 2), normal(5, 3), normal(5, 4))
row("Bilinear", lambda nn: nn.Bilinear(3, 4, 2, bias=False), normal(3), normal(4), case="vector")
row("Flatten", lambda nn: nn.Flatten(), normal(2, 3, 4, 2))
row("Flatten", lambda nn: nn.Flatten(0, 1), normal(2, 3, 4), case="inner")
row("Unflatten", lambda nn: nn.Unflatten(1, (2, -1)), normal(2, 6, 3))

# -- convolution --------------------------------------------------------------------------------------------------------

row("Conv1d", lambda nn: nn.Conv1d(4, 6, 3), normal(2, 4, 9))
row("Conv1d", lambda nn: nn.Conv1d(4, 6, 3, 2, 2, 2, groups=2, bias=False), normal(2, 4, 9), case="settings")
row("Conv1d", lambda nn: nn.Conv1d(2, 3, 4, padding="same", padding_mode="reflect"), normal(2, 8), case="same-reflect")
row("Conv2d", lambda nn: nn.Conv2d(4, 6, 3), normal(2, 4, 6, 5))
row("Conv2d", lambda nn: nn.Conv2d(4, 4, (3, 2), (2, 1), (1, 0), (1, 2), groups=4), normal(4, 7, 6), case="depthwise")
row("Conv2d", lambda nn: nn.Conv2d(2, 3, 3, padding="same"), normal(2, 2, 4, 5), case="same")
row("Conv2d", lambda nn: nn.Conv2d(2, 3, 3, padding="valid", dilation=2), normal(2, 2, 6, 5), case="valid")
for _mode in ("reflect", "replicate", "circular"):
    row(
        "Conv2d",
        lambda nn, mode=_mode: nn.Conv2d(2, 3, 3, padding=(1, 2), padding_mode=mode),
        normal(1, 2, 4, 5),
        case=_mode,
    )
row("Conv3d", lambda nn: nn.Conv3d(2, 3, 2), normal(2, 2, 3, 4, 3))
row("Conv3d", lambda nn: nn.Conv3d(2, 2, (1, 2, 2), padding=1, padding_mode="circular"), normal(2, 2, 3, 2), case="pad")
row("ConvTranspose1d", lambda nn: nn.ConvTranspose1d(4, 6, 3), normal(2, 4, 5))
row("ConvTranspose1d", lambda nn: nn.ConvTranspose1d(4, 6, 3, 2, 1, 1, 2, False, 2), normal(4, 5), case="settings")
row("ConvTranspose2d", lambda nn: nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1), normal(2, 2, 3, 4))
row(
    "ConvTranspose2d",
    lambda nn: nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1),
    normal(1, 2, 3, 4),
    case="output-size",
    call=lambda net, x: net(x, output_size=(6, 7)),
)
row("ConvTranspose3d", lambda nn: nn.ConvTranspose3d(2, 3, 2, stride=(1, 2, 1)), normal(1, 2, 2, 2, 3))

# -- pooling ------------------------------------------------------------------------------------------------------------

row("MaxPool1d", lambda nn: nn.MaxPool1d(3), normal(2, 3, 10))
row("MaxPool1d", lambda nn: nn.MaxPool1d(2, return_indices=True), normal(3, 8), case="indices")
row("MaxPool2d", lambda nn: nn.MaxPool2d(2), normal(2, 3, 6, 5))
row("MaxPool2d", lambda nn: nn.MaxPool2d((3, 2), (2, 1), (1, 0), ceil_mode=True), normal(2, 3, 6, 5), case="settings")
row("MaxPool3d", lambda nn: nn.MaxPool3d(2, dilation=2), normal(1, 2, 4, 4, 5))
row("AvgPool1d", lambda nn: nn.AvgPool1d(3, 2, 1), normal(2, 3, 8))
row("AvgPool2d", lambda nn: nn.AvgPool2d(2), normal(2, 3, 6, 5))
row(
    "AvgPool2d",
    lambda nn: nn.AvgPool2d(3, (2, 1), 1, ceil_mode=True, count_include_pad=False),
    normal(2, 3, 6, 5),
    case="settings",
)
row("AvgPool3d", lambda nn: nn.AvgPool3d(2, 1, divisor_override=3), normal(1, 2, 3, 4, 3))
row("AdaptiveAvgPool1d", lambda nn: nn.AdaptiveAvgPool1d(3), normal(2, 3, 8))
row("AdaptiveAvgPool2d", lambda nn: nn.AdaptiveAvgPool2d(1), normal(2, 3, 4, 5))
row("AdaptiveAvgPool2d", lambda nn: nn.AdaptiveAvgPool2d((3, None)), normal(3, 4, 5), case="one-open")
row("AdaptiveAvgPool3d", lambda nn: nn.AdaptiveAvgPool3d((1, 2, 2)), normal(1, 2, 3, 4, 5))
row("AdaptiveMaxPool1d", lambda nn: nn.AdaptiveMaxPool1d(3), normal(2, 3, 8))
row("AdaptiveMaxPool2d", lambda nn: nn.AdaptiveMaxPool2d((3, None), return_indices=True), normal(2, 3, 4, 5))
row("AdaptiveMaxPool3d", lambda nn: nn.AdaptiveMaxPool3d(2), normal(1, 2, 3, 4, 5))
row("LPPool1d", lambda nn: nn.LPPool1d(2, 3, stride=2), normal(2, 3, 8))
row("LPPool2d", lambda nn: nn.LPPool2d(4, (2, 3), ceil_mode=True), normal(2, 3, 5, 5))
row("LPPool2d", lambda nn: nn.LPPool2d(float("inf"), 2), normal(3, 4, 5), case="greatest")
row("LPPool3d", lambda nn: nn.LPPool3d(2.0, 2, 1), normal(1, 2, 3, 3, 2))
row("MaxUnpool1d", lambda nn: nn.MaxUnpool1d(2), normal(2, 3, 4), np.tile([1, 2, 4, 7], (2, 3, 1)))
row(
    "MaxUnpool2d",
    lambda nn: nn.MaxUnpool2d(2, (2, 1)),
    normal(3, 2, 3),
    np.tile([[0, 5, 2], [9, 12, 11]], (3, 1, 1)),
    call=lambda net, x, indices: net(x, indices, output_size=(5, 4)),
)
row(
    "MaxUnpool3d",
    lambda nn: nn.MaxUnpool3d((2, 1, 2)),
    normal(1, 3, 1, 2, 2),
    below(2, 1, 3, 1, 2, 2) * 8 + [[0, 2], [4, 6]],
)
row(
    "FractionalMaxPool2d",
    lambda nn: nn.FractionalMaxPool2d(2, (2, 3), None, True, array(nn, 0.5 * unit(2, 3, 2))),
    normal(2, 3, 6, 7),
)
row(
    "FractionalMaxPool3d",
    lambda nn: nn.FractionalMaxPool3d(2, None, (0.7, 0.5, 0.5), _random_samples=array(nn, 0.5 * unit(2, 3, 3))),
    normal(2, 3, 5, 6, 7),
)

# -- padding ------------------------------------------------------------------------------------------------------------

for _dims, _sides in ((1, (1, 2)), (2, (2, 1, -1, 3)), (3, (1, 2, 0, 2, -1, 1))):
    _x = normal(*(2, 3, 4, 5, 4)[: _dims + 2])
    for _name in (f"{_kind}Pad{_dims}d" for _kind in ("Circular", "Reflection", "Replication", "Zero")):
        row(_name, lambda nn, name=_name: getattr(nn, name)(1), _x)
        row(_name, lambda nn, name=_name, sides=_sides: getattr(nn, name)(sides), _x, case="sides")
    row(
        f"ConstantPad{_dims}d",
        lambda nn, dims=_dims, sides=_sides: getattr(nn, f"ConstantPad{dims}d")(sides, 1.5),
        _x,
    )

# -- resizing and rearranging --------------------------------------------------------------------------------------------

row("Upsample", lambda nn: nn.Upsample(scale_factor=2), normal(2, 3, 4))
row("Upsample", lambda nn: nn.Upsample((5, 7), mode="bilinear"), normal(2, 3, 4, 3), case="bilinear")
row(
    "Upsample",
    lambda nn: nn.Upsample(None, (2.0, 1.7), "bicubic", True, True),
    normal(2, 3, 4, 3),
    case="bicubic",
)
row("Upsample", lambda nn: nn.Upsample(3, mode="area"), normal(1, 2, 4, 3, 5), case="area")
row("UpsamplingNearest2d", lambda nn: nn.UpsamplingNearest2d(scale_factor=(2, 1.5)), normal(2, 3, 4, 3))
row("UpsamplingBilinear2d", lambda nn: nn.UpsamplingBilinear2d(scale_factor=2), normal(2, 3, 4, 3))
row("PixelShuffle", lambda nn: nn.PixelShuffle(2), normal(2, 8, 2, 3))
row("PixelUnshuffle", lambda nn: nn.PixelUnshuffle(2), normal(2, 3, 4, 6))
row("ChannelShuffle", lambda nn: nn.ChannelShuffle(2), normal(2, 6, 3))
row("Unfold", lambda nn: nn.Unfold((2, 3), (1, 2), 1, (2, 1)), normal(2, 3, 4, 5))
row("Fold", lambda nn: nn.Fold((4, 5), (2, 3), padding=1, stride=2), normal(2, 12, 9))

# -- normalization ------------------------------------------------------------------------------------------------------

row("BatchNorm1d", lambda nn: nn.BatchNorm1d(3), normal(6, 3))
row("SyncBatchNorm", lambda nn: nn.SyncBatchNorm(3), normal(2, 3, 4))
row("BatchNorm1d", lambda nn: nn.BatchNorm1d(3, momentum=None, eps=1e-3), normal(4, 3, 5), case="cumulative")
row("BatchNorm2d", lambda nn: nn.BatchNorm2d(3), normal(2, 3, 4, 3))
row("BatchNorm2d", lambda nn: nn.BatchNorm2d(3, affine=False), normal(2, 3, 2, 3), case="plain")
row("BatchNorm2d", lambda nn: nn.BatchNorm2d(3, track_running_stats=False), normal(2, 3, 2, 2), case="untracked")
row("BatchNorm2d", lambda nn: nn.BatchNorm2d(3, bias=False), normal(2, 3, 2, 2), case="no-bias")
row("BatchNorm3d", lambda nn: nn.BatchNorm3d(2, momentum=0.3), normal(2, 2, 2, 3, 2))
row("InstanceNorm1d", lambda nn: nn.InstanceNorm1d(3), normal(2, 3, 5))
row("InstanceNorm2d", lambda nn: nn.InstanceNorm2d(3, affine=True), normal(3, 4, 3), case="affine")
row("InstanceNorm2d", lambda nn: nn.InstanceNorm2d(3, track_running_stats=True), normal(2, 3, 4, 3))
row("InstanceNorm3d", lambda nn: nn.InstanceNorm3d(2, momentum=None, track_running_stats=True), normal(2, 2, 3, 2, 2))
row("LayerNorm", lambda nn: nn.LayerNorm(5), normal(2, 3, 5))
row("LayerNorm", lambda nn: nn.LayerNorm([3, 5], bias=False, eps=1e-3), normal(2, 3, 5), case="no-bias")
row("LayerNorm", lambda nn: nn.LayerNorm((5,), elementwise_affine=False), normal(2, 5), case="plain")
row("GroupNorm", lambda nn: nn.GroupNorm(2, 4), normal(2, 4, 3))
row("GroupNorm", lambda nn: nn.GroupNorm(2, 4, bias=False), normal(2, 4), case="no-bias")
row("GroupNorm", lambda nn: nn.GroupNorm(4, 4, affine=False), normal(1, 4, 3, 2), case="plain")
row("RMSNorm", lambda nn: nn.RMSNorm(5), normal(2, 5))
row("RMSNorm", lambda nn: nn.RMSNorm((3, 5), eps=1e-3, elementwise_affine=False), normal(2, 3, 5), case="plain")
row("LocalResponseNorm", lambda nn: nn.LocalResponseNorm(3, alpha=0.1), normal(2, 5, 3))
# torch's gradient is not the derivative of what it returns.
row("CrossMapLRN2d", lambda nn: nn.CrossMapLRN2d(3, alpha=0.5), normal(2, 7, 2, 3), fixed=(0,))
row("CrossMapLRN2d", lambda nn: nn.CrossMapLRN2d(4, 1.0, 0.5, 2.0), normal(1, 5, 2, 1), case="even", fixed=(0,))

# -- activations --------------------------------------------------------------------------------------------------------

_X = 3 * normal(4, 6, what="activation")
for _name in """ReLU ReLU6 LeakyReLU Hardtanh Hardsigmoid Hardswish Hardshrink Softshrink Tanhshrink ELU CELU SELU GELU SiLU Mish
        Sigmoid LogSigmoid Softplus Softsign Tanh GLU PReLU""".split():
    tolerance = 1e-6 if _name == "Hardsigmoid" else 1e-9
    row(_name, lambda nn, name=_name: getattr(nn, name)(), _X, tolerance=tolerance)
for _name in "ReLU ReLU6 LeakyReLU Hardtanh Hardswish ELU CELU SELU SiLU Mish RReLU".split():
    row(
        _name,
        lambda nn, name=_name: getattr(nn, name)(inplace=True),
        _X,
        case="inplace",
        # torch writes into its input, whose value the test still needs.
        call=lambda net, x: net(x * 1),
        random=_name == "RReLU",
    )
row("RReLU", lambda nn: nn.RReLU(0.2, 0.4), _X, random=True)
row("Threshold", lambda nn: nn.Threshold(0.5, -2.0), _X)
row("LeakyReLU", lambda nn: nn.LeakyReLU(0.2), _X, case="slope")
row("Hardtanh", lambda nn: nn.Hardtanh(-2.0, 0.5), _X, case="bounds")
row("GELU", lambda nn: nn.GELU("tanh"), _X, case="tanh")
row("Softplus", lambda nn: nn.Softplus(2.0, 3.0), _X, case="settings")
row("GLU", lambda nn: nn.GLU(0), _X, case="first")
row("PReLU", lambda nn: nn.PReLU(6, init=0.5), _X, case="channels")
for _name in ("Softmax", "LogSoftmax", "Softmin"):
    row(_name, lambda nn, name=_name: getattr(nn, name)(dim=1), _X)
row("Softmax2d", lambda nn: nn.Softmax2d(), normal(2, 3, 2, 2))

# -- dropout ------------------------------------------------------------------------------------------------------------

for _name, _shape in {
    "Dropout": (4, 5),
    "Dropout1d": (2, 3, 4),
    "Dropout2d": (2, 3, 2, 2),
    "Dropout3d": (2, 3, 2, 2, 2),
    "AlphaDropout": (4, 5),
    "FeatureAlphaDropout": (2, 3, 2, 2),
}.items():
    row(_name, lambda nn, name=_name: getattr(nn, name)(0.3), normal(*_shape), random=True)
row("Dropout", lambda nn: nn.Dropout(0.0, inplace=True), normal(2, 3), case="none")

# -- embedding ----------------------------------------------------------------------------------------------------------

row("Embedding", lambda nn: nn.Embedding(7, 3), below(7, 2, 5))
row("Embedding", lambda nn: nn.Embedding(7, 3, padding_idx=-2, scale_grad_by_freq=True), below(7, 9), case="settings")
row("Embedding", lambda nn: nn.Embedding(7, 3, max_norm=0.5, norm_type=1.0), below(7, 2, 3), case="max-norm")
row("Embedding", lambda nn: nn.Embedding.from_pretrained(array(nn, normal(7, 3))), below(7, 4), case="pretrained")


def _offsets(indices: Any) -> Any:
    """Where bags of two of six indices begin, and where the last one ends, as an array like those."""
    return (indices[:4] * 0 + 2).cumsum(0) - 2


row("EmbeddingBag", lambda nn: nn.EmbeddingBag(7, 3), below(7, 2, 5))
row("EmbeddingBag", lambda nn: nn.EmbeddingBag(7, 3, 0.5, mode="max", padding_idx=-2), below(7, 2, 4), case="max")
row(
    "EmbeddingBag",
    lambda nn: nn.EmbeddingBag(7, 3, scale_grad_by_freq=True, mode="sum", include_last_offset=True),
    below(7, 6),
    unit(6),
    case="sum",
    call=lambda net, indices, weights: net(indices, _offsets(indices), weights),
)
row(
    "EmbeddingBag",
    lambda nn: nn.EmbeddingBag.from_pretrained(array(nn, normal(7, 3)), norm_type=1.0),
    below(7, 2, 4),
    case="pretrained",
)

# -- recurrent ----------------------------------------------------------------------------------------------------------


def _leaves(output: Any) -> tuple[Any, ...]:
    """What a recurrent layer returns, without the pair in it."""
    return sum(map(_leaves, output), ()) if isinstance(output, tuple) else (output,)


def _sequences(net: Any, x: Any, *state: Any) -> Any:
    return _leaves(net(x, state[0] if len(state) == 1 else state or None))


for _name in ("RNN", "LSTM", "GRU"):
    row(_name, lambda nn, name=_name: getattr(nn, name)(4, 3, 2, bidirectional=True), normal(5, 2, 4), call=_sequences)
    row(
        _name,
        lambda nn, name=_name: getattr(nn, name)(4, 3, 2, bias=False, batch_first=True, dropout=0.5),
        normal(2, 5, 4),
        case="dropout",
        call=_sequences,
        random=True,
    )
row("RNN", lambda nn: nn.RNN(4, 3, nonlinearity="relu"), normal(5, 4), normal(1, 3), case="relu", call=_sequences)
row(
    "LSTM",
    lambda nn: nn.LSTM(4, 3, proj_size=2),
    *(normal(5, 4), normal(1, 2), normal(1, 3)),
    case="projection",
    call=_sequences,
)
row(
    "RNNBase",
    lambda nn: nn.RNNBase("LSTM", 4, 3, 2, bidirectional=True, proj_size=2),
    normal(2, 4),
    call=lambda net, x: x @ net.weight_ih_l0_reverse.T,
)
for _name in ("RNNCell", "LSTMCell", "GRUCell"):
    row(_name, lambda nn, name=_name: getattr(nn, name)(4, 3), normal(2, 4), call=_sequences)
    _state = [normal(3, what=str(i)) for i in range(2 if _name == "LSTMCell" else 1)]
    row(
        _name, lambda nn, name=_name: getattr(nn, name)(4, 3, False), normal(4), *_state, case="vector", call=_sequences
    )
row("RNNCell", lambda nn: nn.RNNCell(4, 3, nonlinearity="relu"), normal(2, 4), case="relu", call=_sequences)
row("RNNCellBase", lambda nn: nn.RNNCellBase(4, 3, True, 2), normal(2, 4), call=lambda net, x: x @ net.weight_ih.T)

# -- attention ----------------------------------------------------------------------------------------------------------

_PADDING = np.array([False, True, False])
row("MultiheadAttention", lambda nn: nn.MultiheadAttention(6, 2), normal(4, 2, 6), call=lambda net, x: net(x, x, x))
row(
    "MultiheadAttention",
    lambda nn: nn.MultiheadAttention(6, 3, 0.2, False, True, True, 5, 4, True),
    normal(2, 4, 6),
    normal(2, 3, 5),
    normal(2, 3, 4),
    np.stack([_PADDING, ~_PADDING]),
    case="settings",
    random=True,
)
row(
    "MultiheadAttention",
    lambda nn: nn.MultiheadAttention(6, 2),
    normal(4, 6),
    normal(3, 6),
    normal(2, 4, 3),
    case="vectors",
    call=lambda net, x, memory, mask: net(x, memory, memory, attn_mask=mask, average_attn_weights=False),
)
row("TransformerEncoderLayer", lambda nn: nn.TransformerEncoderLayer(4, 2, 6, 0.0), normal(3, 2, 4))
row(
    "TransformerEncoderLayer",
    lambda nn: nn.TransformerEncoderLayer(4, 2, 6, 0.3, "gelu", 1e-3, True, True, False),
    normal(2, 3, 4),
    case="settings",
    random=True,
)
row("TransformerDecoderLayer", lambda nn: nn.TransformerDecoderLayer(4, 2, 6, 0.0), normal(3, 2, 4), normal(5, 2, 4))
row(
    "TransformerDecoderLayer",
    lambda nn: nn.TransformerDecoderLayer(4, 2, 6, 0.3, nn.Tanh(), 1e-3, True, True, False),
    normal(3, 4),
    normal(5, 4),
    case="settings",
    random=True,
)
row(
    "TransformerEncoder",
    lambda nn: nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 6, 0.0), 2, nn.LayerNorm(4), False),
    normal(3, 2, 4),
    np.tri(3) == 0,
)
row(
    "TransformerDecoder",
    lambda nn: nn.TransformerDecoder(nn.TransformerDecoderLayer(4, 2, 6, 0.0), 2),
    normal(3, 2, 4),
    normal(2, 2, 4),
)
row(
    "Transformer",
    lambda nn: nn.Transformer(4, 2, 1, 1, 6, 0.0, batch_first=True),
    normal(2, 3, 4),
    normal(2, 2, 4),
)

# -- losses and distances -----------------------------------------------------------------------------------------------

row("CosineSimilarity", lambda nn: nn.CosineSimilarity(dim=0), normal(4, 3), normal(4, 3, what="other"))
row("PairwiseDistance", lambda nn: nn.PairwiseDistance(), normal(4, 3), normal(4, 3, what="other"))
row("PairwiseDistance", lambda nn: nn.PairwiseDistance(1, keepdim=True), normal(4, 3), normal(3), case="keepdim")

_Y, _TARGET = normal(4, 6, what="target"), below(6, 4)
for _name in ("L1Loss", "MSELoss", "SmoothL1Loss", "HuberLoss"):
    row(_name, lambda nn, name=_name: getattr(nn, name)(), _X, _Y)
    row(_name, lambda nn, name=_name: getattr(nn, name)(reduction="none"), _X, _Y, case="none")
row("SmoothL1Loss", lambda nn: nn.SmoothL1Loss(beta=0.3, reduction="sum"), _X, _Y, case="settings")
row("HuberLoss", lambda nn: nn.HuberLoss("sum", 2.0), _X, _Y, case="settings")
row("KLDivLoss", lambda nn: nn.KLDivLoss(reduction="batchmean"), _X, unit(4, 6))
row("KLDivLoss", lambda nn: nn.KLDivLoss(reduction="sum", log_target=True), _X, _Y, case="log-target")
row("PoissonNLLLoss", lambda nn: nn.PoissonNLLLoss(), _X, unit(4, 6))
row("PoissonNLLLoss", lambda nn: nn.PoissonNLLLoss(False, True, reduction="none"), unit(3), unit(3) * 9, case="full")
row("GaussianNLLLoss", lambda nn: nn.GaussianNLLLoss(), _X, _Y, unit(4, 6))
row("GaussianNLLLoss", lambda nn: nn.GaussianNLLLoss(full=True, reduction="none"), _X, _Y, unit(4, 1), case="full")

_WEIGHT = unit(6, what="weight")
row("NLLLoss", lambda nn: nn.NLLLoss(), _X, _TARGET)
row("NLLLoss", lambda nn: nn.NLLLoss(array(nn, _WEIGHT), ignore_index=2), _X, _TARGET, case="weighted")
row("CrossEntropyLoss", lambda nn: nn.CrossEntropyLoss(), _X, _TARGET)
row(
    "CrossEntropyLoss",
    lambda nn: nn.CrossEntropyLoss(array(nn, _WEIGHT), ignore_index=2, label_smoothing=0.1),
    _X,
    _TARGET,
    case="weighted",
)
row("CrossEntropyLoss", lambda nn: nn.CrossEntropyLoss(reduction="none"), _X, unit(4, 6), case="probabilities")
row("BCELoss", lambda nn: nn.BCELoss(array(nn, _WEIGHT)), unit(4, 6, what="input"), unit(4, 6))
row("BCEWithLogitsLoss", lambda nn: nn.BCEWithLogitsLoss(), _X, unit(4, 6))
row(
    "BCEWithLogitsLoss",
    lambda nn: nn.BCEWithLogitsLoss(array(nn, _WEIGHT), pos_weight=array(nn, 2 * _WEIGHT), reduction="sum"),
    _X,
    unit(4, 6),
    case="weighted",
)
row("MultiLabelSoftMarginLoss", lambda nn: nn.MultiLabelSoftMarginLoss(array(nn, _WEIGHT)), _X, below(2, 4, 6) * 1.0)
row("MultiMarginLoss", lambda nn: nn.MultiMarginLoss(), _X, _TARGET)
row("MultiMarginLoss", lambda nn: nn.MultiMarginLoss(2, 0.5, array(nn, _WEIGHT)), _X, _TARGET, case="weighted")
row("MultiLabelMarginLoss", lambda nn: nn.MultiLabelMarginLoss(), _X, below(7, 4, 6) - 1)
row("HingeEmbeddingLoss", lambda nn: nn.HingeEmbeddingLoss(0.7), _X, signs(4, 6))
row("SoftMarginLoss", lambda nn: nn.SoftMarginLoss(), _X, signs(4, 6), fixed=(1,))
row("CosineEmbeddingLoss", lambda nn: nn.CosineEmbeddingLoss(0.1), _X, _Y, signs(4))
row("MarginRankingLoss", lambda nn: nn.MarginRankingLoss(0.5), normal(4), normal(4, what="other"), signs(4))
row("TripletMarginLoss", lambda nn: nn.TripletMarginLoss(2.0, swap=True), _X, _Y, normal(4, 6))
row("TripletMarginWithDistanceLoss", lambda nn: nn.TripletMarginWithDistanceLoss(), _X, _Y, normal(4, 6))
row(
    "TripletMarginWithDistanceLoss",
    lambda nn: nn.TripletMarginWithDistanceLoss(
        distance_function=nn.PairwiseDistance(1.0), margin=5.0, swap=True, reduction="none"
    ),
    _X,
    _Y,
    normal(4, 6),
    case="distance",
)


def _nll_loss_2d(nn: Any) -> Any:
    with warnings.catch_warnings(action="ignore"):  # the name is deprecated
        return nn.NLLLoss2d(reduction="sum")


row("NLLLoss2d", _nll_loss_2d, normal(2, 5, 3, 2), below(5, 2, 3, 2))
row(
    "CTCLoss",
    lambda nn: nn.CTCLoss(),
    normal(6, 3, 4),
    below(3, 3, 2) + 1,
    np.array([6, 5, 6]),
    np.array([2, 1, 2]),
)
row(
    "CTCLoss",
    lambda nn: nn.CTCLoss(2, "none", True),
    normal(5, 2, 4),
    np.array([[0, 1, 1, 3], [3, 3, 3, 3]]),
    np.array([5, 5]),
    np.array([4, 4]),
    case="zero-infinity",
)
row("LinearCrossEntropyLoss", lambda nn: nn.LinearCrossEntropyLoss(4, 6), normal(5, 4), below(6, 5))
row(
    "LinearCrossEntropyLoss",
    lambda nn: nn.LinearCrossEntropyLoss(
        4, 6, out_features=(2, 3), bias=True, weight=array(nn, _WEIGHT), ignore_index=2, label_smoothing=0.1
    ),
    normal(5, 4),
    below(6, 5, 2, 3),
    case="settings",
)
row("AdaptiveLogSoftmaxWithLoss", lambda nn: nn.AdaptiveLogSoftmaxWithLoss(16, 12, [3, 7]), normal(5, 16), below(12, 5))
row(
    "AdaptiveLogSoftmaxWithLoss",
    lambda nn: nn.AdaptiveLogSoftmaxWithLoss(8, 12, [3, 7], 2.0, head_bias=True),
    normal(5, 8),
    case="log-prob",
    call=lambda net, x: net.log_prob(x),
)
