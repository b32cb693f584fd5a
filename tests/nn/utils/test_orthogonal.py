"""Orthogonal weights: as torch's, eager and compiled."""

from __future__ import annotations

import copy
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from flambeau import nn
from flambeau.nn.utils import parametrizations, parametrize
from tests.nn.utils.twins import assert_runs_as_torchs, assert_same, of_torch, twins

torch = pytest.importorskip("torch")

CASES: list[tuple[str, dict[str, Any]]] = [
    ("square", {}),
    ("square", {"orthogonal_map": "cayley", "use_trivialization": False}),
    ("square", {"orthogonal_map": "householder"}),
    ("linear", {"use_trivialization": False}),
    ("linear", {"orthogonal_map": "cayley"}),
    ("narrow", {"use_trivialization": False}),
    ("narrow", {"orthogonal_map": "matrix_exp", "use_trivialization": False}),
    ("bilinear", {}),
    ("bilinear", {"orthogonal_map": "cayley"}),
]


@pytest.mark.parametrize(("layer", "options"), CASES, ids=str)
def test_as_torch(layer: str, options: dict[str, Any]) -> None:
    """What is there from the start, what calls make of it, and what is left when it is removed."""
    ours, theirs, xs = twins(layer, lambda m, nn: nn.utils.parametrizations.orthogonal(m, **options))
    assert_runs_as_torchs(ours, theirs, xs)
    for module, by in ((ours, parametrize), (theirs, torch.nn.utils.parametrize)):
        by.remove_parametrizations(module, "weight")
    assert repr(ours) == repr(theirs)
    assert_same(ours.state_dict(), of_torch(theirs.state_dict()))


@pytest.mark.parametrize(
    ("layer", "options"),
    [
        ("square", {"orthogonal_map": "cayley"}),
        ("linear", {}),
        ("narrow", {"orthogonal_map": "householder", "use_trivialization": False}),
        ("bilinear", {}),
    ],
    ids=str,
)
def test_initial_orthogonal_weights_are_torchs(layer: str, options: dict[str, Any]) -> None:
    """Before a state dict is loaded: the weight that was there, made orthogonal; and one that is assigned."""
    ours, theirs, _ = twins(layer, lambda m, nn: None)
    for module, by in ((ours, parametrizations), (theirs, torch.nn.utils.parametrizations)):
        by.orthogonal(module, **options)
    np.testing.assert_allclose(ours.weight, theirs.weight.detach(), atol=1e-12)
    new = np.random.default_rng(5).normal(size=ours.weight.shape)
    ours.weight, theirs.weight = jnp.asarray(new), torch.tensor(new)
    np.testing.assert_allclose(ours.weight, theirs.weight.detach(), atol=1e-12)
    if layer == "square":
        before = ours.weight
        ours.weight = before
        assert jnp.array_equal(ours.weight, before), "an orthogonal weight stays, to the last bit"


@pytest.mark.parametrize("dtype", [jnp.complex64, jnp.complex128])
@pytest.mark.parametrize("orthogonal_map", ["matrix_exp", "cayley"])
def test_complex_weights_become_unitary(orthogonal_map: str, dtype: Any) -> None:
    class Rotation(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matrix = nn.Parameter(nn.init.normal_(jnp.zeros((4, 3), dtype)))

    module = parametrizations.orthogonal(Rotation(), "matrix", orthogonal_map)
    original = module.get_parameter("parametrizations.matrix.original")
    original.copy_(nn.init.normal_(original.data))
    q: Any = module.matrix
    np.testing.assert_allclose(q.conj().T @ q, np.eye(3), atol=1e-5)
    with pytest.raises(ValueError, match="does not support complex"):
        parametrizations.orthogonal(Rotation(), "matrix", "householder")


MISTAKES: list[tuple[Any, Any, str]] = [
    (lambda: parametrizations.orthogonal(nn.Linear(2, 3), "bias"), ValueError, "array of 1 dimensions"),
    (lambda: parametrizations.orthogonal(nn.Linear(2, 3), orthogonal_map="qr"), ValueError, "Got: qr"),
    (lambda: parametrizations.orthogonal(nn.Linear(2, 3, bias=False), "bias"), ValueError, "no parameter or buffer"),
]


@pytest.mark.parametrize(("mistake", "error", "message"), MISTAKES, ids=[message for _, _, message in MISTAKES])
def test_mistakes(mistake: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        mistake()


def test_what_cannot_be_assigned() -> None:
    layer = parametrizations.orthogonal(nn.Linear(3, 3), use_trivialization=False)
    with pytest.raises(NotImplementedError, match="not possible to assign"):
        layer.weight = jnp.eye(3)
    with pytest.raises(ValueError, match=r"of shape \(3, 3\)"):
        parametrizations.orthogonal(nn.Linear(3, 3)).weight = jnp.eye(2)
    assert copy.deepcopy(layer).weight.shape == (3, 3)
