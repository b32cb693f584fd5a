"""What a sample of PyTorch's own tables is in our terms, and how the two results are held against each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flambeau as fb
from flambeau import nn
from flambeau.nn import functional as F

torch = pytest.importorskip("torch")

__all__ = ["assert_same", "our_results", "ours", "their_results", "weights_of"]


def ours(value: Any) -> Any:
    """The arguments of a sample: arrays for tensors, our dtypes, functions and layers for torch's."""
    if isinstance(value, torch.Tensor):
        return jnp.asarray(value.detach().numpy())
    if isinstance(value, torch.dtype):
        return jnp.dtype(str(value).removeprefix("torch."))
    if isinstance(value, torch.nn.TransformerEncoderLayer):
        return _encoder_layer(value)
    if isinstance(value, torch.nn.LinearCrossEntropyOptions):
        return nn.LinearCrossEntropyOptions(**{field.name: ours(getattr(value, field.name)) for field in fields(value)})
    if isinstance(value, dict):
        return {key: ours(item) for key, item in value.items() if key != "device"}
    if type(value) in (list, tuple):
        return type(value)(ours(item) for item in value)
    if callable(value) and "torch" in (getattr(value, "__module__", None) or type(value).__module__):
        name = getattr(value, "__name__", type(value).__name__)
        return getattr(F, name, None) or getattr(nn, name)()
    return value


def _encoder_layer(layer: Any) -> Any:
    """Our encoder layer with the settings and weights of torch's."""
    made = nn.TransformerEncoderLayer(
        layer.self_attn.embed_dim,
        layer.self_attn.num_heads,
        layer.linear1.out_features,
        layer.dropout.p,
        ours(layer.activation),
        layer.norm1.eps,
        layer.self_attn.batch_first,
        layer.norm_first,
        bias=layer.linear1.bias is not None,
        dtype=jnp.float64,
    )
    made.load_state_dict(weights_of(layer))
    return made


def weights_of(module: Any) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy() for name, value in module.state_dict().items()}


def _leaves(output: Any) -> list[Any]:
    """The tensors of a torch output, in the order in which JAX has the arrays of ours."""
    if isinstance(output, torch.Tensor):
        return [output]
    if isinstance(output, dict):
        return [leaf for key in sorted(output) for leaf in _leaves(output[key])]
    return [leaf for item in output for leaf in _leaves(item)] if isinstance(output, (tuple, list)) else []


def _differentiated(leaves: list[Any]) -> list[Any]:
    """The tensors that want a gradient, each once: some samples pass one twice."""
    return list({id(leaf): leaf for leaf in leaves if getattr(leaf, "requires_grad", False)}.values())


def _cotangent(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng([1, *shape]).normal(size=shape)


def their_results(call: Callable[..., Any], args: Any, parameters: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """Torch's outputs, and gradients of the parameters and of the inputs that want one; zeros where there is none."""
    inputs = _differentiated(_leaves(args))
    outputs = _leaves(call(*args))
    wanted = [*parameters.values(), *inputs]
    floating = [leaf for leaf in outputs if leaf.requires_grad]
    if not wanted:
        return outputs, []
    found: Any = [None] * len(wanted)
    if floating:
        loss = sum((leaf * torch.tensor(_cotangent(leaf.shape), dtype=leaf.dtype)).sum() for leaf in floating)
        found = torch.autograd.grad(loss, wanted, allow_unused=True)
    return outputs, [torch.zeros_like(w) if g is None else g for w, g in zip(wanted, found, strict=True)]


def our_results(call: Callable[..., Any], module: Any, args: Any, their_args: Any) -> tuple[list[Any], list[Any]]:
    """Our outputs and gradients of `call(module, *args)`, compiled: one program is made sooner than one for each operation."""
    leaves, treedef = jax.tree.flatten(args)
    tensors = jax.tree.leaves(their_args)
    places = {id(tensor): i for i, tensor in enumerate(_differentiated(tensors))}
    trainable = isinstance(module, nn.Module) and any(parameter.requires_grad for parameter in module.parameters())

    def loss(module: Any, given: list[Any]) -> Any:
        filled = [
            given[places[id(tensor)]] if id(tensor) in places else leaf
            for leaf, tensor in zip(leaves, tensors, strict=True)
        ]
        outputs = jax.tree.leaves(call(module, *jax.tree.unflatten(treedef, filled)))
        floating = [leaf for leaf in outputs if jnp.issubdtype(leaf.dtype, jnp.floating)]
        return sum(
            (jnp.sum(leaf * _cotangent(leaf.shape).astype(leaf.dtype)) for leaf in floating), jnp.zeros(())
        ), outputs

    def run(module: Any, given: list[Any]) -> Any:
        argnums = (0, 1) if trainable else (1,)
        grads, outputs = fb.grad(loss, argnums=argnums, has_aux=True)(module, given)
        names = [name for name, _ in module.named_parameters()] if trainable else []
        return outputs, [*(grads[0][name] for name in names), *grads[-1]]

    given = list(
        {id(tensor): leaf for leaf, tensor in zip(leaves, tensors, strict=True) if id(tensor) in places}.values()
    )
    return (fb.jit(run) if given or trainable else lambda module, given: (loss(module, given)[1], []))(module, given)


def assert_same(mine: list[Any], its: list[Any], what: str, tolerance: float = 1e-8) -> None:
    assert len(mine) == len(its), what
    for i, (a, b) in enumerate(zip(mine, its, strict=True)):
        expected = b.detach().numpy()
        assert a.shape == expected.shape, f"{what} {i}"
        assert a.dtype == expected.dtype, f"{what} {i}"
        np.testing.assert_allclose(a, expected, rtol=tolerance, atol=tolerance, err_msg=f"{what} {i}")
