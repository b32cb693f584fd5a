"""Generators: the same seed gives the same numbers, eager or compiled, whatever happens in between.

They are number 10 of the design.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flambeau as fb
from flambeau import nn
from flambeau.core.random import next_key
from flambeau.nn import functional as F

ONES = jnp.ones(64)


def draw(generator: Any = None) -> jax.Array:
    return jax.random.uniform(next_key(generator), (3,))


def same(got: Any, expected: Any) -> bool:
    return np.array_equal(np.asarray(got), np.asarray(expected))


@pytest.fixture(autouse=True)
def seeded() -> None:
    fb.manual_seed(0)


# -- The default generator ----------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_numbers() -> None:
    first = [draw() for _ in range(3)]
    assert not same(first[0], first[1]) and not same(first[1], first[2])
    assert fb.manual_seed(0) is fb.default_generator
    assert same([draw() for _ in range(3)], first)
    fb.manual_seed(1)
    assert not same(draw(), first[0])


@pytest.mark.parametrize(
    "make", [lambda: nn.Linear(4, 4).weight, lambda: F.dropout(ONES), lambda: nn.Dropout(0.3)(ONES)]
)
def test_all_that_is_random_draws_from_it(make: Callable[[], Any]) -> None:
    first, second = make(), make()
    assert not same(first, second)
    fb.manual_seed(0)
    assert same(make(), first) and same(make(), second)


def test_what_a_seed_may_be() -> None:
    keys = set()
    for seed in (0, 1, -1, 2**32, 2**32 + 1, -(2**63), 2**63 - 1, 2**64 - 2):
        assert fb.manual_seed(seed).initial_seed() == fb.initial_seed() == seed % 2**64
        keys.add(draw().tobytes())
    assert len(keys) == 8
    for seed in (2**64, -(2**63) - 1):
        with pytest.raises(ValueError, match=f"expected a seed of 64 bits, got {seed}"):
            fb.manual_seed(seed)
    wrong: Any
    for wrong in (1.0, "7", None, True):
        with pytest.raises(TypeError, match=f"expected seed to be an int, got {type(wrong).__name__}"):
            fb.manual_seed(wrong)


def test_a_seed_of_the_operating_systems_choice() -> None:
    seeds = {fb.seed() for _ in range(3)}
    assert len(seeds) == 3 and fb.initial_seed() in seeds
    first = draw()
    fb.manual_seed(fb.initial_seed())
    assert same(draw(), first)


def test_the_state_can_be_put_back() -> None:
    """As often as one likes: it is an array of one's own, which no compiled function overwrites."""
    draw()
    state = fb.get_rng_state()
    first = [draw() for _ in range(2)]
    for compiled in (False, True, True):
        fb.set_rng_state(state)
        assert same([fb.jit(draw)() if compiled else draw() for _ in range(2)], first)
    fb.set_rng_state(np.asarray(state).copy())
    assert same(draw(), first[0])
    for wrong in (jnp.zeros(3, jnp.uint32), state.astype(jnp.int32), 5):
        with pytest.raises(ValueError, match=r"expected a generator's state, uint32\[2\], got"):
            fb.set_rng_state(wrong)
    assert same(draw(), first[1])


# -- Generators of one's own --------------------------------------------------------------------------------------------------


def test_a_generator_of_ones_own() -> None:
    generator = fb.Generator().manual_seed(3)
    expected = draw(fb.Generator().manual_seed(3))
    before = fb.get_rng_state()
    assert same(draw(generator), expected)
    assert same(fb.get_rng_state(), before) and fb.initial_seed() == 0


def test_a_copy_goes_its_own_way() -> None:
    generator = fb.Generator().manual_seed(3)
    draw(generator)
    twins = [copy.deepcopy(generator), pickle.loads(pickle.dumps(generator))]
    twins.append(fb.Generator().set_state(generator.get_state()))
    first = draw(generator)
    for twin in twins:
        assert same(draw(twin), first)
    assert twins[0].initial_seed() == twins[1].initial_seed() == 3


SAMPLERS: dict[str, Callable[..., Any]] = {
    "uniform_": nn.init.uniform_,
    "trunc_normal_": nn.init.trunc_normal_,
    "kaiming_normal_": nn.init.kaiming_normal_,
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_generator_arguments(name: str) -> None:
    """They draw from it and from nothing else, eager or compiled."""
    before = fb.get_rng_state()
    fill = lambda generator: SAMPLERS[name](jnp.zeros((3, 4)), generator=generator)  # noqa: E731
    first = fill(fb.Generator().manual_seed(3))
    generator = fb.Generator().manual_seed(3)
    np.testing.assert_allclose(fb.jit(fill)(generator), first, rtol=1e-6, atol=1e-7)
    assert not same(fill(generator), first)
    assert same(fb.get_rng_state(), before)


# -- Compiled -----------------------------------------------------------------------------------------------------------------


class Noisy(nn.Module):
    """Draws from a generator that it holds and from the default one, if it is in training."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = fb.Generator().manual_seed(5)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Any) -> Any:
        return self.dropout(x) + (draw(self.generator)[0] if self.training else 0.0)


def test_eager_and_compiled_calls_share_one_sequence() -> None:
    net, twin = Noisy(), Noisy()
    eager = [net(ONES) for _ in range(4)]
    fb.manual_seed(0)
    step = fb.jit(lambda net, x: net(x))
    assert same([step(twin, ONES), twin(ONES), step(twin, ONES), step(twin, ONES)], eager)
    assert same(twin.generator.get_state(), net.generator.get_state())


def test_eval_draws_nothing() -> None:
    net = Noisy().eval()
    before = fb.get_rng_state()
    assert same(fb.jit(net)(ONES), ONES) and same(fb.get_rng_state(), before)


def test_another_seed_does_not_compile_again() -> None:
    runs = []
    step = fb.jit(lambda: runs.append("run") or draw())
    step()
    traced = len(runs)
    for seed in range(3):
        fb.manual_seed(seed)
        step()
    assert len(runs) == traced


def test_a_seed_inside() -> None:
    """It holds for what follows inside, and for what follows outside."""

    def seeding(x: Any) -> Any:
        fb.manual_seed(7)
        return x + draw(), draw()

    outputs = [*seeding(jnp.zeros(3)), draw()]
    step = fb.jit(seeding)
    for _ in range(3):
        fb.manual_seed(0)
        assert same([*step(jnp.zeros(3)), draw()], outputs)
        assert fb.initial_seed() == 7


def test_a_state_inside() -> None:
    @fb.jit
    def twice(generator: fb.Generator) -> Any:
        state = generator.get_state()
        first = draw(generator)
        generator.set_state(state)
        return first, draw(generator)

    generator = fb.Generator()
    first, second = twice(generator)
    assert same(first, second) and same(first, draw(fb.Generator()))
    again, _ = twice(generator)
    assert not same(first, again)


def test_a_gradient_draws_once() -> None:
    """The backward pass sees the numbers of the forward pass."""
    for wrap in (lambda f: f, fb.jit):
        fb.manual_seed(0)
        output, gradient = wrap(fb.value_and_grad(lambda x: nn.Dropout(0.5)(x).sum()))(ONES)
        after = fb.get_rng_state()
        fb.manual_seed(0)
        mask = nn.Dropout(0.5)(ONES)
        assert same(gradient, mask) and output == mask.sum() and same(after, fb.get_rng_state())


def test_modules_made_inside_have_the_numbers_of_eager_execution() -> None:
    made = fb.jit(lambda: nn.Linear(3, 4))()
    after = fb.get_rng_state()
    fb.manual_seed(0)
    twin = nn.Linear(3, 4)
    for name, value in twin.state_dict().items():
        np.testing.assert_allclose(made.state_dict()[name], value, atol=1e-7)
    assert same(after, fb.get_rng_state())


JITTED = fb.jit(draw)
SEEDED = fb.jit(lambda: fb.manual_seed(3) and draw())
ACTIONS: dict[str, Callable[[Any, bool], Any]] = {
    "draw": lambda own, compiled: JITTED() if compiled else draw(),
    "draw from one's own": lambda own, compiled: (JITTED if compiled else draw)(own),
    "seed": lambda own, compiled: fb.manual_seed(1) and None,
    "seed and draw": lambda own, compiled: SEEDED() if compiled else [fb.manual_seed(3), draw()][1],
    "copy the state": lambda own, compiled: own.set_state(fb.get_rng_state()) and None,
    "read the state": lambda own, compiled: own.get_state(),
    "fail": lambda own, compiled: failing(compiled),
}


def failing(compiled: bool) -> None:
    def function() -> None:
        draw()
        raise KeyError

    if (
        compiled
    ):  # it draws nothing then; a plain function goes on from where it stopped, so there it must not have begun
        with pytest.raises(KeyError):
            fb.jit(function)()


@pytest.mark.filterwarnings("ignore::flambeau.RecompilationWarning")
@settings(max_examples=10)
@given(st.lists(st.tuples(st.sampled_from(sorted(ACTIONS)), st.booleans()), max_size=8))
def test_any_mixture_of_eager_and_compiled(actions: list[tuple[str, bool]]) -> None:
    """It gives the numbers of eager execution alone."""
    runs = []
    for mixed in (False, True):
        fb.manual_seed(0)
        own = fb.Generator().manual_seed(9)
        runs.append([ACTIONS[name](own, mixed and compiled) for name, compiled in actions])
        runs[-1] += [own.get_state(), fb.get_rng_state()]
    for eager, compiled in zip(*runs):
        assert (eager is None and compiled is None) or same(eager, compiled)
