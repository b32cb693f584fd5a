"""Networks of many arrays, as many as ResNet-50 and GPT-2 small have, and as narrow as one likes.

A step has all that a user's has: BatchNorm's statistics or dropout's random numbers, and an optimizer with state. The
baseline holds lists of arrays by hand and calls one `jax.jit` that donates them; what it computes comes from the same
network through `fb.functional_call`, and from optax, so that the compiled programs do the same work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import flambeau as fb
from flambeau import models
from flambeau.nn import functional as F
from mlp import BASELINE, CLOSED_OVER, FLAMBEAU, Contender

LR = 1e-3
# Draws as ever, and drops nothing: the contenders draw from different keys, and are to give the same losses.
NOTHING = 1e-9


@dataclass(frozen=True)
class Training:
    """A network, a batch for it, and its optimizer, as flambeau and as optax have it.

    `scale` is how many times as wide the network is, and how many times as many examples there are, as in the narrow one.
    """

    title: str
    make: Callable[[int], Any]
    batch: Callable[[int], tuple[jax.Array, jax.Array]]
    optimizer: Callable[[Any], Any]
    optax: Callable[[], optax.GradientTransformation]
    scale: int = 1

    def fresh(self) -> Any:
        """The network, always with the same numbers."""
        fb.manual_seed(0)
        return self.make(self.scale)

    def data(self) -> tuple[jax.Array, jax.Array]:
        """Inputs and labels."""
        return self.batch(self.scale)


def _resnet50(scale: int) -> Any:
    return models.resnet50(width=4 * scale, num_classes=10)


def _images(scale: int) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    images = rng.standard_normal((2 * scale, 3, 32, 32))
    return jnp.asarray(images, jnp.float32), jnp.asarray(rng.integers(0, 10, 2 * scale))


def _gpt2(scale: int) -> Any:
    drop = {"resid_pdrop": NOTHING, "embd_pdrop": NOTHING, "attn_pdrop": NOTHING}
    return models.gpt2_small(vocab_size=64, n_positions=16, n_embd=24 * scale, **drop)


def _tokens(scale: int) -> tuple[jax.Array, jax.Array]:
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 64, (scale, 9)))
    return tokens[:, :-1], tokens[:, 1:]


def _sgd(net: Any) -> fb.optim.Optimizer:
    return fb.optim.SGD(net.parameters(), lr=LR, momentum=0.9)


def _adamw(net: Any) -> fb.optim.Optimizer:
    return fb.optim.AdamW(net.parameters(), lr=LR)


# Without lambdas, for they are sent to other processes.
TRAININGS = {
    "resnet50": Training(
        "ResNet-50 with 4 channels in its stem, 2 images of 32 by 32, SGD with momentum",
        _resnet50,
        _images,
        _sgd,
        partial(optax.sgd, LR, momentum=0.9),
    ),
    "gpt2": Training(
        "GPT-2 small of width 24, 8 tokens, dropout, AdamW",
        _gpt2,
        _tokens,
        _adamw,
        partial(optax.adamw, LR, weight_decay=0.01),
    ),
}


def loss_of(output: jax.Array, y: jax.Array) -> jax.Array:
    """Cross entropy over all labels there are."""
    return F.cross_entropy(output.reshape(-1, output.shape[-1]), y.reshape(-1))


def hand_flattened(training: Training) -> Contender:
    """The floor: lists of arrays through one `jax.jit` that donates them."""
    net, unused = training.fresh(), training.fresh().eval()
    names = [name for name, _ in net.named_parameters()]
    state_names = [name for name, _ in net.named_buffers()]
    transformation = training.optax()
    params = [parameter.get() + 0 for parameter in net.parameters()]
    buffers = [buffer.get() + 0 for buffer in net.buffers()]
    state, tree = jax.tree.flatten(transformation.init(params))
    state = [leaf + 0 for leaf in state]
    key = jax.random.key(0)
    x, y = training.data()

    def named(params: list[Any], buffers: list[Any]) -> dict[str, Any]:
        return dict(zip(names + state_names, params + buffers, strict=True))

    def loss(params: Any, buffers: Any, key: Any, x: Any, y: Any) -> tuple[Any, Any]:
        output, new = fb.functional_call(net, named(params, buffers), x, key=key, return_state=True)
        return loss_of(output, y), [new[name] for name in state_names]

    def train(params: Any, buffers: Any, state: Any, key: Any, x: Any, y: Any) -> Any:
        key, drawn = jax.random.split(key)
        (value, buffers), grads = jax.value_and_grad(loss, has_aux=True)(params, buffers, drawn, x, y)
        updates, new = transformation.update(grads, jax.tree.unflatten(tree, state), params)
        return value, optax.apply_updates(params, updates), buffers, jax.tree.leaves(new), key

    compiled_train = jax.jit(train, donate_argnums=(0, 1, 2, 3))
    compiled_predict = jax.jit(lambda params, buffers, x: fb.functional_call(unused, named(params, buffers), x))

    def step() -> jax.Array:
        nonlocal params, buffers, state, key
        value, params, buffers, state, key = compiled_train(params, buffers, state, key, x, y)
        return value

    return Contender(
        step,
        lambda: compiled_predict(params, buffers, x),
        lambda: compiled_train.lower(params, buffers, state, key, x, y),
    )


def flambeau_jit(training: Training) -> Contender:
    """`fb.jit` over the network and its optimizer; random numbers come from the default generator."""
    net, twin = training.fresh(), training.fresh().eval()
    optimizer = training.optimizer(net)
    x, y = training.data()

    @fb.jit
    def train(net: Any, optimizer: Any, x: Any, y: Any) -> jax.Array:
        loss, grads = fb.value_and_grad(lambda net: loss_of(net(x), y))(net)
        optimizer.step(grads)
        return loss

    predict = fb.jit(lambda net, x: net(x))
    return Contender(
        lambda: train(net, optimizer, x, y), lambda: predict(twin, x), lambda: train.lower(net, optimizer, x, y)
    )


def flambeau_closed_over(training: Training) -> Contender:
    """The same, of which only the data are arguments."""
    net, twin = training.fresh(), training.fresh().eval()
    optimizer = training.optimizer(net)
    x, y = training.data()

    @fb.jit
    def train(x: Any, y: Any) -> jax.Array:
        loss, grads = fb.value_and_grad(lambda net: loss_of(net(x), y))(net)
        optimizer.step(grads)
        return loss

    predict = fb.jit(lambda x: twin(x))
    return Contender(lambda: train(x, y), lambda: predict(x), lambda: train.lower(x, y))


BUILDERS: dict[str, Callable[[Training], Contender]] = {
    BASELINE: hand_flattened,
    FLAMBEAU: flambeau_jit,
    CLOSED_OVER: flambeau_closed_over,
}
