"""A layer of ours and torch's with the same state, and a check that both run alike."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import flambeau as fb
from flambeau import nn

__all__ = ["LAYERS", "assert_runs_as_torchs", "assert_same", "loss", "of_torch", "twins"]

# How to make it of flambeau.nn or torch.nn, and the shapes of its inputs.
LAYERS: dict[str, tuple[Callable[[Any], Any], list[tuple[int, ...]]]] = {
    "linear": (lambda nn: nn.Linear(3, 5), [(4, 3)]),
    "square": (lambda nn: nn.Linear(4, 4), [(2, 4)]),
    "narrow": (lambda nn: nn.Linear(5, 3), [(2, 5)]),
    "bilinear": (lambda nn: nn.Bilinear(3, 4, 2), [(2, 3), (2, 4)]),
    "conv": (lambda nn: nn.Conv2d(4, 6, 2, groups=2), [(2, 4, 3, 3)]),
    "transposed": (lambda nn: nn.ConvTranspose1d(2, 3, 2), [(2, 2, 4)]),
}


def of_torch(state: Any) -> dict[str, np.ndarray]:
    """A state dict of torch, with arrays of numpy and what it says of versions."""
    arrays = type(state)((name, value.detach().numpy().copy()) for name, value in state.items())
    if hasattr(state, "_metadata"):
        arrays._metadata = state._metadata
    return arrays


def assert_same(ours: Any, theirs: Any) -> None:
    """Dicts with the same keys, in the same order, of arrays that agree in dtype and to rounding."""
    assert list(ours) == list(theirs)
    for name in ours:
        assert (ours[name].dtype, ours[name].shape) == (theirs[name].dtype, theirs[name].shape), name
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-9, atol=1e-9, err_msg=name)


def loss(net: Any, *xs: jax.Array) -> jax.Array:
    return (net(*xs) ** 3).sum()


def twins(layer: str, change: Callable[[Any, Any], Any]) -> tuple[Any, Any, list[np.ndarray]]:
    """Our layer and torch's in float64, changed by `change(layer, nn)`, with the same state; and inputs."""
    import torch

    make, shapes = LAYERS[layer]
    ours, theirs = make(nn).double(), make(torch.nn).double()
    ours.load_state_dict(of_torch(theirs.state_dict()))
    for layer_of, namespace in ((ours, nn), (theirs, torch.nn)):
        change(layer_of, namespace)
    ours.load_state_dict(of_torch(theirs.state_dict()))
    return ours, theirs, [np.random.default_rng(i).normal(size=shape) for i, shape in enumerate(shapes)]


def assert_runs_as_torchs(ours: Any, theirs: Any, xs: list[np.ndarray], *, stateful: bool = False) -> None:
    """Ours gives torch's values and state, and a copy of it, compiled, the gradients too.

    Args:
        stateful: whether calls in training change the state: then it is called in evaluation too.
    """
    import torch

    assert repr(ours) == repr(theirs)
    copied, arrays = copy.deepcopy(ours), [jnp.asarray(x) for x in xs]
    compiled = fb.jit(fb.value_and_grad(loss))
    for training in (True, False) if stateful else (True,):
        theirs.train(training).zero_grad()
        expected = (theirs(*map(torch.tensor, xs)) ** 3).sum()
        expected.backward()
        gradients = {name: p.grad.numpy() for name, p in theirs.named_parameters()}
        value, grads = compiled(copied.train(training), *arrays)
        assert_same(dict(sorted(grads.items())), dict(sorted(gradients.items())))
        np.testing.assert_allclose(value, expected.item(), rtol=1e-9)
        np.testing.assert_allclose(loss(ours.train(training), *arrays), expected.item(), rtol=1e-9)
        for module in (ours, copied):
            assert_same(module.state_dict(), of_torch(theirs.state_dict()))
