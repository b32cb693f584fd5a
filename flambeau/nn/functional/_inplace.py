"""PyTorch's names of activations that write into their argument.

Arrays are immutable: each of these is the function without the underscore, whose result has to be used.
"""

from __future__ import annotations

from flambeau.nn.functional._rectifiers import celu, elu, hardtanh, leaky_relu, relu, rrelu, selu, threshold

__all__ = ["celu_", "elu_", "hardtanh_", "leaky_relu_", "relu_", "rrelu_", "selu_", "threshold_"]

celu_ = celu
elu_ = elu
hardtanh_ = hardtanh
leaky_relu_ = leaky_relu
relu_ = relu
rrelu_ = rrelu
selu_ = selu
threshold_ = threshold
