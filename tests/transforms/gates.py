"""A module with custom derivative rules, and the transforms that a call of it may be nested in."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import pytest

import flambeau as fb
from flambeau import nn

__all__ = [
    "KINDS",
    "WRAPS",
    "Gate",
    "checkpointed",
    "chosen",
    "compiled",
    "forward",
    "inert",
    "looped",
    "mapped",
    "once",
    "plain",
    "reverse",
    "scanned",
]


class Gate(nn.Module):
    """`tanh(x @ weight)`, with everything that a function may write: a buffer, a list, an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.weight: Any = nn.Parameter(jnp.arange(6.0).reshape(3, 2) / 6)
        self.register_buffer("count", jnp.zeros((), jnp.int32))
        self.trace: Any = []
        self.last_shape: Any = None

    def forward(self, x: Any) -> Any:
        self.count = self.count + 1
        self.trace.append(x.sum())
        self.last_shape = x.shape
        return jnp.tanh(x @ self.weight)


def reverse(scale: float = 1.0) -> Any:
    """A gate as a custom function, whose derivative is `scale` times the true one."""

    @fb.custom_vjp
    def gate(net: Any, x: Any) -> Any:
        return net(x)

    def fwd(net: Any, x: Any) -> Any:
        y = gate(net, x)
        return y, (net, x, y)

    def bwd(residuals: Any, y_bar: Any) -> Any:
        net, x, y = residuals
        inside = scale * y_bar * (1 - y**2)
        return {"weight": x.T @ inside}, inside @ net.weight.T

    gate.defvjp(fwd, bwd)
    return gate


def forward(scale: float = 1.0) -> Any:
    """The same by a rule in forward mode."""

    @fb.custom_jvp
    def gate(net: Any, x: Any) -> Any:
        return net(x)

    @gate.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        (net, x), (net_dot, x_dot) = primals, tangents
        y = gate(net, x)
        return y, scale * (1 - y**2) * (x_dot @ net.weight + x @ net_dot["weight"])

    return gate


def plain(net: Any, x: Any) -> Any:
    return net(x)


def once(gate: Any, net: Any, x: Any) -> Any:
    return (gate(net, x) ** 2).sum()


def scanned(gate: Any, net: Any, x: Any) -> Any:
    return fb.scan(lambda total, row: (total + once(gate, net, row[None]), None), 0.0, x)[0]


def mapped(gate: Any, net: Any, x: Any) -> Any:
    return fb.vmap(lambda net, row: once(gate, net, row[None]), in_axes=(None, 0), write="stack")(net, x).sum()


def looped(gate: Any, net: Any, x: Any) -> Any:
    return fb.fori_loop(0, 2, lambda i, total: total + once(gate, net, x), 0.0)


def checkpointed(gate: Any, net: Any, x: Any) -> Any:
    return fb.checkpoint(lambda net, x: once(gate, net, x))(net, x)


def chosen(gate: Any, net: Any, x: Any) -> Any:
    return fb.cond(x.sum() > 0, lambda: once(gate, net, x), lambda: 2 * once(gate, net, x))


def compiled(gate: Any, net: Any, x: Any) -> Any:
    return fb.jit(lambda net, x: once(gate, net, x))(net, x)


def inert(make: Any, function: Any) -> Any:
    """A function with a rule which says that it depends on nothing."""
    if make is forward:
        made: Any = fb.custom_jvp(function)
        made.defjvp(lambda primals, _: ((y := made(*primals)), jnp.zeros_like(y)))
    else:
        made = fb.custom_vjp(function)
        made.defvjp(lambda *args: (made(*args), len(args)), lambda count, _: (None,) * count)
    return made


KINDS = pytest.mark.parametrize("make", [reverse, forward], ids=["vjp", "jvp"])
WRAPS = pytest.mark.parametrize("wrap", [lambda f: f, fb.jit], ids=["eager", "jit"])
