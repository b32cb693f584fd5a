"""One small network and its training step, as the users of each library write it, all on the same numbers.

A builder takes a `Workload` and returns a fresh `Contender`, with functions that no cache has seen. To time another
network, write a file like this one; to add a library, write one more builder and name it in `BUILDERS`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

BASELINE = "hand-flattened jax.jit"
FLAMBEAU = "flambeau"
CLOSED_OVER = "flambeau, closed over"


@dataclass(frozen=True)
class Workload:
    """An MLP of `depth` square layers with relu between them, trained by SGD on the mean squared error."""

    depth: int = 64
    width: int = 16
    batch: int = 8
    lr: float = 1e-3

    def layers(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Weight (out, in) and bias (out,) of each layer, scaled so that the signal keeps its size through relus."""
        rng = np.random.default_rng(0)
        scale = np.sqrt(2 / self.width)
        shape = (self.width, self.width)
        return [
            ((scale * rng.standard_normal(shape)).astype(np.float32), np.zeros(self.width, np.float32))
            for _ in range(self.depth)
        ]

    def batch_of_data(self) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets, both (batch, width)."""
        x, y = np.random.default_rng(1).standard_normal((2, self.batch, self.width)).astype(np.float32)
        return x, y


@dataclass(frozen=True)
class Contender:
    """One library's compiled calls. Each may return before its work is done; what it returns can be waited for.

    Args:
        step: trains on the batch once and returns the loss from before the update.
        forward: returns the network's output.
        lower: the `jax.stages.Lowered` of the step.
    """

    step: Callable[[], Any]
    forward: Callable[[], Any]
    lower: Callable[[], Any] | None = None


def hand_flattened(work: Workload) -> Contender:
    """The floor: two lists of arrays through one `jax.jit` that donates them."""

    def predict(weights: list[jax.Array], biases: list[jax.Array], x: jax.Array) -> jax.Array:
        for weight, bias in zip(weights[:-1], biases[:-1]):
            x = jax.nn.relu(x @ weight.T + bias)
        return x @ weights[-1].T + biases[-1]

    def loss_of(parameters: tuple[list[jax.Array], list[jax.Array]], x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.mean((predict(*parameters, x) - y) ** 2)

    def train(weights: list[jax.Array], biases: list[jax.Array], x: jax.Array, y: jax.Array) -> tuple[Any, Any, Any]:
        loss, (dw, db) = jax.value_and_grad(loss_of)((weights, biases), x, y)
        weights = [weight - work.lr * grad for weight, grad in zip(weights, dw)]
        biases = [bias - work.lr * grad for bias, grad in zip(biases, db)]
        return loss, weights, biases

    weights, biases = (list(map(jnp.asarray, arrays)) for arrays in zip(*work.layers()))
    x, y = map(jnp.asarray, work.batch_of_data())
    compiled_train = jax.jit(train, donate_argnums=(0, 1))
    compiled_predict = jax.jit(predict)

    def step() -> jax.Array:
        nonlocal weights, biases
        loss, weights, biases = compiled_train(weights, biases, x, y)
        return loss

    return Contender(step, lambda: compiled_predict(weights, biases, x))


def flambeau_closed_over(work: Workload) -> Contender:
    """The same, of which only the data are arguments."""
    import flambeau as fb
    from flambeau.nn import functional as F

    net = flambeau_module(work)
    optimizer = fb.optim.SGD(net.parameters(), lr=work.lr)
    x, y = map(jnp.asarray, work.batch_of_data())

    @fb.jit
    def train(x: jax.Array, y: jax.Array) -> jax.Array:
        loss, grads = fb.value_and_grad(lambda net: F.mse_loss(net(x), y))(net)
        optimizer.step(grads)
        return loss

    predict = fb.jit(lambda x: net(x))
    return Contender(lambda: train(x, y), lambda: predict(x))


@functools.cache
def _flambeau_class() -> Any:
    """One class for all networks, since it is a part of their structure."""
    from flambeau import nn
    from flambeau.nn import functional as F

    class MLP(nn.Module):
        def __init__(self, depth: int, width: int) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(depth)])

        def forward(self, x: jax.Array) -> jax.Array:
            *hidden, last = self.layers
            for layer in hidden:
                x = F.relu(layer(x))
            return last(x)

    return MLP


def flambeau_module(work: Workload) -> Any:
    """The network of `flambeau_jit`, a new object of the same structure at each call."""
    net = _flambeau_class()(work.depth, work.width)
    for layer, (weight, bias) in zip(net.layers, work.layers()):
        layer.weight, layer.bias = jnp.asarray(weight), jnp.asarray(bias)
    return net


def flambeau_jit(work: Workload) -> Contender:
    """`fb.jit` over the network and its optimizer."""
    import flambeau as fb
    from flambeau.nn import functional as F

    @fb.jit
    def train(net: Any, optimizer: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        loss, grads = fb.value_and_grad(lambda net: F.mse_loss(net(x), y))(net)
        optimizer.step(grads)
        return loss

    @fb.jit
    def predict(net: Any, x: jax.Array) -> jax.Array:
        return net(x)

    net = flambeau_module(work)
    optimizer = fb.optim.SGD(net.parameters(), lr=work.lr)
    x, y = map(jnp.asarray, work.batch_of_data())
    return Contender(lambda: train(net, optimizer, x, y), lambda: predict(net, x))


def equinox_filter_jit(work: Workload) -> Contender:
    """`eqx.filter_jit`, which partitions the model at each call, with the model donated."""
    import equinox as eqx

    class MLP(eqx.Module):
        layers: list

        def __call__(self, x: jax.Array) -> jax.Array:
            for layer in self.layers[:-1]:
                x = jax.nn.relu(layer(x))
            return self.layers[-1](x)

    def linear(weight: np.ndarray, bias: np.ndarray) -> Any:
        layer = eqx.nn.Linear(work.width, work.width, key=jax.random.key(0))
        return eqx.tree_at(lambda each: (each.weight, each.bias), layer, (jnp.asarray(weight), jnp.asarray(bias)))

    def loss_of(model: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.mean((jax.vmap(model)(x) - y) ** 2)

    @eqx.filter_jit(donate="all-except-first")
    def train(data: tuple[jax.Array, jax.Array], model: Any) -> tuple[jax.Array, Any]:
        loss, grads = eqx.filter_value_and_grad(loss_of)(model, *data)
        return loss, eqx.apply_updates(model, jax.tree.map(lambda grad: -work.lr * grad, grads))

    @eqx.filter_jit
    def predict(model: Any, x: jax.Array) -> jax.Array:
        return jax.vmap(model)(x)

    model: Any = MLP([linear(*layer) for layer in work.layers()])
    x, y = map(jnp.asarray, work.batch_of_data())

    def step() -> jax.Array:
        nonlocal model
        loss, model = train((x, y), model)
        return loss

    return Contender(step, lambda: predict(model, x))


@dataclass(frozen=True)
class _NnxParts:
    """What both ways of calling NNX share."""

    model: Any
    optimizer: Any
    train: Callable[..., jax.Array]
    predict: Callable[..., jax.Array]
    x: jax.Array
    y: jax.Array


def _nnx_parts(work: Workload) -> _NnxParts:
    import optax
    from flax import nnx

    class MLP(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.layers = nnx.List([nnx.Linear(work.width, work.width, rngs=rngs) for _ in range(work.depth)])

        def __call__(self, x: jax.Array) -> jax.Array:
            for layer in self.layers[:-1]:
                x = jax.nn.relu(layer(x))
            return self.layers[-1](x)

    def train(model: Any, optimizer: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        loss, grads = nnx.value_and_grad(lambda model: jnp.mean((model(x) - y) ** 2))(model)
        optimizer.update(model, grads)
        return loss

    model = MLP(nnx.Rngs(0))
    for layer, (weight, bias) in zip(model.layers, work.layers()):
        assert layer.bias is not None
        layer.kernel[...], layer.bias[...] = jnp.asarray(weight.T), jnp.asarray(bias)
    optimizer = nnx.Optimizer(model, optax.sgd(work.lr), wrt=nnx.Param)
    x, y = map(jnp.asarray, work.batch_of_data())
    compiled_train = nnx.jit(train, donate_argnums=(0, 1))
    return _NnxParts(model, optimizer, compiled_train, nnx.jit(lambda model, x: model(x)), x, y)


def nnx_jit(work: Workload) -> Contender:
    """`nnx.jit`, which splits and merges the graph of objects at each call."""
    parts = _nnx_parts(work)
    return Contender(
        lambda: parts.train(parts.model, parts.optimizer, parts.x, parts.y),
        lambda: parts.predict(parts.model, parts.x),
    )


def nnx_cached_partial(work: Workload) -> Contender:
    """`nnx.cached_partial`, which remembers the split."""
    from flax import nnx

    parts = _nnx_parts(work)
    train = nnx.cached_partial(parts.train, parts.model, parts.optimizer)
    predict = nnx.cached_partial(parts.predict, parts.model)
    return Contender(lambda: train(parts.x, parts.y), lambda: predict(parts.x))


def torch_eager(work: Workload) -> Contender:
    """PyTorch as it comes, one operation after the other."""
    import torch

    def relu_between(layers: list[Any]) -> Any:
        activated = [part for layer in layers for part in (layer, torch.nn.ReLU())]
        return torch.nn.Sequential(*activated[:-1])

    layers = [torch.nn.Linear(work.width, work.width) for _ in range(work.depth)]
    with torch.no_grad():
        for layer, (weight, bias) in zip(layers, work.layers()):
            layer.weight.copy_(torch.from_numpy(weight))
            layer.bias.copy_(torch.from_numpy(bias))
    net = relu_between(layers)
    optimizer = torch.optim.SGD(net.parameters(), lr=work.lr)
    x, y = map(torch.from_numpy, work.batch_of_data())

    def step() -> Any:
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(net(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    def forward() -> Any:
        with torch.inference_mode():
            return net(x)

    return Contender(step, forward)


BUILDERS: dict[str, Callable[[Workload], Contender]] = {
    BASELINE: hand_flattened,
    FLAMBEAU: flambeau_jit,
    CLOSED_OVER: flambeau_closed_over,
    "Equinox filter_jit": equinox_filter_jit,
    "NNX nnx.jit": nnx_jit,
    "NNX cached_partial": nnx_cached_partial,
    "torch eager": torch_eager,
}
