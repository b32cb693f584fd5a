"""`gumbel_softmax`: its distribution, its derivative, and what it does to the generator."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import flambeau as fb
from flambeau._errors import DtypeError, FlambeauWarning
from flambeau.nn import functional as F

PROBABILITIES = np.array([0.1, 0.2, 0.7])


def draws(count: int, **options: Any) -> jax.Array:
    fb.manual_seed(0)
    return F.gumbel_softmax(jnp.log(jnp.tile(PROBABILITIES, (count, 1))), **options)


@pytest.mark.parametrize("dim", [0, -1])
def test_hard_draws_have_the_probabilities(dim: int) -> None:
    fb.manual_seed(0)
    logits = jnp.log(jnp.tile(PROBABILITIES, (3000, 1)))
    found = F.gumbel_softmax(logits if dim else logits.T, hard=True, dim=dim)
    found = found if dim else found.T
    assert set(np.unique(found)) == {0.0, 1.0}
    np.testing.assert_array_equal(found.sum(1), 1)
    likely: Any = stats.chisquare(found.sum(0), 3000 * PROBABILITIES)
    assert likely.pvalue > 1e-3


def test_soft_draws_have_torchs_distribution(torch: Any) -> None:
    torch.manual_seed(0)
    logits = torch.log(torch.tensor(np.tile(PROBABILITIES, (3000, 1))))
    expected = torch.nn.functional.gumbel_softmax(logits, tau=0.8)
    found = draws(3000, tau=0.8)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-12)
    for i in range(3):
        likely: Any = stats.ks_2samp(found[:, i], expected[:, i].numpy())
        assert likely.pvalue > 1e-3


def test_hard_draws_have_the_derivative_of_soft_ones() -> None:
    def slope(hard: bool) -> jax.Array:
        def weighted(x: jax.Array) -> jax.Array:
            fb.manual_seed(2)
            return (F.gumbel_softmax(x, 0.5, hard) * jnp.arange(12.0).reshape(4, 3)).sum()

        return jax.grad(weighted)(jnp.zeros((4, 3)))

    np.testing.assert_array_equal(slope(True), slope(False))
    assert (slope(False) != 0).all()


def test_compiled_draws_are_those_of_eager_ones() -> None:
    expected, state = draws(4), fb.default_generator.get_state()
    np.testing.assert_allclose(fb.jit(lambda: draws(4))(), expected, rtol=1e-12)
    np.testing.assert_array_equal(fb.default_generator.get_state(), state)
    assert (F.gumbel_softmax(jnp.zeros((4, 3))) != F.gumbel_softmax(jnp.zeros((4, 3)))).all()


def test_numbers_vectors_and_wrong() -> None:
    assert F.gumbel_softmax(jnp.zeros(())) == F.gumbel_softmax(jnp.zeros(()), hard=True) == 1
    assert F.gumbel_softmax(jnp.zeros(3, jnp.bfloat16)).dtype == jnp.bfloat16
    with pytest.warns(FlambeauWarning, match="eps is deprecated"):
        F.gumbel_softmax(jnp.zeros(3), eps=1e-5)
    with pytest.raises(IndexError):
        F.gumbel_softmax(jnp.zeros(3), dim=1)
    with pytest.raises(DtypeError):
        F.gumbel_softmax(jnp.zeros(3, int))
