"""Muon."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from flambeau._errors import ShapeError
from flambeau.core.cell import Parameter
from flambeau.optim._options import limited, number
from flambeau.optim.optimizer import Optimizer, Params

__all__ = ["Muon"]


class Muon(Optimizer):
    """Muon: momentum whose singular values are all brought near to 1, for the matrices of hidden layers.

    `b = momentum · b + (1 − momentum) · g;  u = g + momentum (b − g)`, or `b` without `nesterov`; then a Newton-Schulz
    iteration `X = a X + (b A + c A²) X` with `A = X Xᵀ` makes `u / ‖u‖` nearly orthogonal, in bfloat16, and
    `p = p − lr · weight_decay · p − lr · k · X`, where `k` depends on the shape. Give all other parameters (biases, embeddings,
    norms) to AdamW.

    Args:
        params: see `Optimizer`; matrices only.
        lr: the learning rate.
        weight_decay: how fast parameters decay.
        momentum: how slowly the average moves.
        nesterov: whether to look ahead along the momentum.
        ns_coefficients: a, b and c.
        eps: the least norm that is divided by.
        ns_steps: the number of iterations, less than 100.
        adjust_lr_fn: which `k`: "original" (also None) is `√max(1, rows / columns)`, "match_rms_adamw" is
            `0.2 √max(rows, columns)`, for learning rates found with AdamW.

    Raises:
        ValueError: an option makes no sense.
        ShapeError: a parameter is no matrix.

    Example:
        >>> import jax.numpy as jnp
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> net = nn.Linear(4, 2)
        >>> optimizer = fb.optim.Muon([net.weight], lr=0.1)
        >>> grads = fb.grad(lambda net: (net(jnp.eye(4)) ** 2).sum())(net)
        >>> optimizer.step(grads)  # that of the bias belongs to another optimizer
        >>> list(optimizer.state_dict()["state"][0])
        ['momentum_buffer']

    Source: https://kellerjordan.github.io/posts/muon/, https://arxiv.org/abs/2502.16982,
    https://docs.pytorch.org/docs/2.13/generated/torch.optim.Muon.html
    """

    _independent = True
    _counter = "_started"
    _renamed: ClassVar[Mapping[str, str]] = MappingProxyType({"started": "_started"})

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
    ) -> None:
        super().__init__(
            params,
            _muon,
            lr=lr,
            weight_decay=weight_decay,
            momentum=momentum,
            nesterov=nesterov,
            ns_coefficients=ns_coefficients,
            eps=eps,
            ns_steps=ns_steps,
            adjust_lr_fn=adjust_lr_fn,
        )

    def _check_new(self, names: list[str], params: list[Parameter]) -> None:
        super()._check_new(names, params)
        for parameter in params:
            if parameter.ndim != 2:
                raise ShapeError(
                    f"Muon only supports 2D parameters whereas we found a parameter with size: {parameter.shape}"
                )

    def _check_options(self, options: dict[str, Any]) -> dict[str, Any]:
        if options["adjust_lr_fn"] not in (None, "original", "match_rms_adamw"):
            raise ValueError(f"Adjust learning rate function {options['adjust_lr_fn']} is not supported")
        if len(options["ns_coefficients"]) != 3:
            raise ValueError("Coefficients must be a tuple of exactly 3 values")
        if options["ns_steps"] >= 100:
            raise ValueError("Number of steps must be less than 100 for computational efficiency")
        return {
            **options,
            "lr": limited("Learning rate", options["lr"], low=0),
            "weight_decay": limited("weight decay", options["weight_decay"], low=0),
            "momentum": limited("momentum", options["momentum"], low=0),
            "ns_coefficients": tuple(number("coefficient", value) for value in options["ns_coefficients"]),
            "eps": number("epsilon value", options["eps"]),
        }


class _MuonState(NamedTuple):
    started: jax.Array
    momentum_buffer: Any


def _muon(
    lr: Any,
    weight_decay: Any,
    momentum: Any,
    nesterov: bool,
    ns_coefficients: tuple[Any, Any, Any],
    eps: Any,
    ns_steps: int,
    adjust_lr_fn: str | None,
) -> optax.GradientTransformation:
    def init(params: Any) -> Any:
        return _MuonState(jnp.zeros((), bool), optax.tree.zeros_like(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        buffer = jax.tree.map(lambda b, g: b + (1 - momentum) * (g - b), state.momentum_buffer, updates)
        ahead = jax.tree.map(lambda g, b: g + momentum * (b - g), updates, buffer) if nesterov else buffer

        def move(u: jax.Array, p: jax.Array) -> jax.Array:
            x = _orthogonal(u, ns_coefficients, ns_steps, eps).astype(p.dtype)
            return -lr * (_factor(p.shape, adjust_lr_fn) * x + weight_decay * p)

        return jax.tree.map(move, ahead, params), _MuonState(jnp.ones_like(state.started), buffer)

    return optax.GradientTransformation(init, update)


def _factor(shape: tuple[int, ...], adjust_lr_fn: str | None) -> float:
    rows, columns = shape
    if adjust_lr_fn == "match_rms_adamw":
        return 0.2 * math.sqrt(max(rows, columns))
    return math.sqrt(max(1, rows / columns))


def _orthogonal(u: jax.Array, coefficients: tuple[Any, Any, Any], steps: int, eps: Any) -> jax.Array:
    """The Newton-Schulz iteration; that of optax.contrib has the width of `u`, where PyTorch's has that of bfloat16."""
    a, b, c = (jnp.asarray(value, jnp.float32) for value in coefficients)
    tall = u.shape[0] > u.shape[1]
    x = _rounded(u.T if tall else u)  # (m, n), m <= n
    norm = _rounded(jnp.sqrt(jnp.square(_wide(x)).sum()))
    x = _rounded(_wide(x) / jnp.maximum(_wide(norm), jnp.asarray(eps, jnp.float32)))

    def iterate(_: Any, x: jax.Array) -> jax.Array:
        gram = _rounded(_product(x, x.T))  # (m, m)
        mixed = _rounded(b * _wide(gram) + c * _product(gram, gram))
        return _rounded(a * _wide(x) + _product(mixed, x))

    x = jax.lax.fori_loop(0, steps, iterate, x)
    return x.T if tall else x


def _product(left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.matmul(left, right, preferred_element_type=jnp.float32)


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.float32)


def _rounded(x: jax.Array) -> jax.Array:
    # A cast alone XLA may leave out where its result is cast back.
    return jax.lax.reduce_precision(_wide(x), exponent_bits=8, mantissa_bits=7).astype(jnp.bfloat16)
