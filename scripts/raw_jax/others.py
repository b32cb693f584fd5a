"""The networks of Flax NNX and Equinox, written as their users do."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from flax import nnx

from scripts.raw_jax.worlds import CLOSED, GIVEN, PURE, W, World

__all__ = ["FILTERED", "NNX_VERBS", "Equinox", "Nnx"]


# -- Flax NNX -----------------------------------------------------------------------------------------------------------


class NnxNet(nnx.Module):
    def __init__(self, action: str) -> None:
        self.action = action
        self.w = nnx.Param(jnp.array(W))
        if action == "buffer":
            self.norm = nnx.BatchNorm(3, use_bias=False, use_scale=False, rngs=nnx.Rngs(0))
        elif action == "draws":
            self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))
        self.trace = nnx.List([])
        self.calls = 0

    def __call__(self, x: Any) -> Any:
        if self.action == "buffer":
            x = self.norm(x)
        elif self.action == "draws":
            x = self.dropout(x)
        y = x * self.w
        if self.action == "list":
            self.trace.append(nnx.Intermediate(y))  # bare arrays it takes as well, but its guide prefers variables
        elif self.action == "static":
            self.calls += 1
        return y


class Nnx(World):
    """Flax NNX's; the pure form is `nnx.split` and `nnx.merge` at every boundary, as its guide to raw transforms has it.

    Source: https://flax.readthedocs.io/en/stable/guides/jax_and_nnx_transforms.html
    """

    network: NnxNet

    def __init__(self, action: str, way: str) -> None:
        super().__init__(action, way)
        self.network = NnxNet(action)
        self.threads = way == PURE

    def given(self) -> Any:
        if self.way == PURE:
            return nnx.split(self.network, nnx.Param, ...)
        return self.network if self.way == GIVEN else ()

    def call(self, given: Any, x: Any) -> tuple[Any, Any]:
        if self.way != PURE:
            return (self.network if self.way == CLOSED else given)(x), ()
        network = nnx.merge(*given, copy=True)  # without the copy, `jax.grad` writes to the variables outside
        y = network(x)
        return y, nnx.split(network, nnx.Param, ...)

    def keep(self, state: Any) -> None:
        if self.way == PURE:
            self.network = nnx.merge(*state)

    def differentiable(self, x: Any) -> tuple[Any, Callable[[Any], tuple[Any, Any]]]:
        if self.way != PURE:
            return super().differentiable(x)
        graph, trained, rest = self.given()
        return trained, lambda trained: self.call((graph, trained, rest), x)

    def state(self) -> Any:
        return nnx.state(self.network), self.network.calls

    @property
    def weight(self) -> Any:
        return self.network.w[...]

    @weight.setter
    def weight(self, value: Any) -> None:
        self.network.w[...] = value

    def _entry(self, derivative: Any) -> Any:
        return derivative["w"] if isinstance(derivative, nnx.State) else derivative.w


def without_aux(jvp: Any) -> Any:
    """A `jvp` that has no `has_aux` as one that has."""

    def with_aux(function: Any, primals: Any, tangents: Any, has_aux: bool) -> Any:
        (y, state), (direction, _) = jvp(function, primals, tangents)
        return y, direction, state

    return with_aux


def nnx_scan(step: Any, carry: Any, xs: Any) -> Any:
    return nnx.scan(step, in_axes=(nnx.Carry, 0), out_axes=(nnx.Carry, 0))(carry, xs)


NNX_VERBS = {
    name: getattr(nnx, name)
    for name in "jit grad value_and_grad vmap fori_loop while_loop cond switch eval_shape".split()
}
NNX_VERBS |= {
    # These two want it said; its documentation has `graph=False`.
    "vjp": functools.partial(nnx.vjp, graph=False),
    "jvp": without_aux(functools.partial(nnx.jvp, graph=False)),
    "checkpoint": nnx.remat,
    "scan": nnx_scan,
}


# -- Equinox ------------------------------------------------------------------------------------------------------------


class EquinoxNet(eqx.Module):
    w: jax.Array
    norm: eqx.nn.BatchNorm | None
    dropout: eqx.nn.Dropout | None
    trace: list[Any]
    calls: int = eqx.field(static=True)
    action: str = eqx.field(static=True)

    def __init__(self, action: str) -> None:
        self.w = jnp.array(W)
        self.norm = eqx.nn.BatchNorm(3, "batch", channelwise_affine=False, mode="batch") if action == "buffer" else None
        self.dropout = eqx.nn.Dropout(0.5) if action == "draws" else None
        self.trace = []
        self.calls = 0
        self.action = action

    def __call__(self, x: Any, norms: Any, key: Any) -> Any:
        if self.norm is not None:
            x, norms = jax.vmap(self.norm, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(x, norms)
        if self.dropout is not None:
            x = self.dropout(x, key=key)
        y = x * self.w
        if self.action == "list":
            self.trace.append(y)
        elif self.action == "static":
            self.calls += 1  # pyright: ignore[reportAttributeAccessIssue]
        return y, norms


class Equinox(World):
    """Equinox's: the state of BatchNorm and the key of Dropout are arguments, and come back.

    The pure form is `eqx.partition` and `eqx.combine`, as its documentation has it for raw transforms.

    Source: https://docs.kidger.site/equinox/all-of-equinox/
    """

    network: EquinoxNet

    def __init__(self, action: str, way: str) -> None:
        super().__init__(action, way)
        self.network, self.norms = eqx.nn.make_with_state(EquinoxNet)(action)
        self.key = jax.random.key(0)
        self.threads = way != CLOSED
        self.possible = self.threads or action != "buffer"

    def begin(self) -> None:
        if self.way == CLOSED:
            self.key = jax.random.split(self.key)[0]

    def given(self) -> Any:
        if self.way == CLOSED:
            return ()
        network = eqx.filter(self.network, eqx.is_inexact_array) if self.way == PURE else self.network
        return network, self.norms, self.key

    def call(self, given: Any, x: Any) -> tuple[Any, Any]:
        if self.way == CLOSED:
            return self.network(x, self.norms, self.key)[0], ()
        network, norms, key = given
        if self.way == PURE:
            network = eqx.combine(network, eqx.filter(self.network, eqx.is_inexact_array, inverse=True))
        key, drawn = jax.random.split(key)
        y, norms = network(x, norms, drawn)
        return y, (norms, key)

    def keep(self, state: Any) -> None:
        if self.threads:
            self.norms, self.key = state

    def carry(self, given: Any, state: Any) -> Any:
        return (given[0], *state) if self.threads else given

    def untouched(self, given: Any) -> Any:
        return given[1:]

    def state(self) -> Any:
        return self.network.w, list(self.network.trace), self.network.calls, self.norms, self.key

    @property
    def weight(self) -> Any:
        return self.network.w

    @weight.setter
    def weight(self, value: Any) -> None:
        self.network = eqx.tree_at(lambda network: network.w, self.network, value)

    def differentiable(self, x: Any) -> tuple[Any, Callable[[Any], tuple[Any, Any]]]:
        if self.way == CLOSED:
            return super().differentiable(x)
        network, *rest = self.given()
        return network, lambda network: self.call((network, *rest), x)

    def _entry(self, derivative: Any) -> Any:
        return derivative.w


def filter_jvp(function: Any, primals: Any, tangents: Any) -> Any:
    """`eqx.filter_jvp`, which has None where there is no tangent."""
    inexact = jax.tree.map(eqx.is_inexact_array, primals)
    return eqx.filter_jvp(function, primals, eqx.filter(tangents, inexact))


FILTERED = {
    name: getattr(eqx, f"filter_{name}")
    for name in "jit grad value_and_grad vjp jacrev vmap checkpoint eval_shape".split()
}
FILTERED["jvp"] = without_aux(filter_jvp)
