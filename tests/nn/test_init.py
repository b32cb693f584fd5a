"""`nn.init`: what is filled in place, with which numbers, and that they do not depend on being compiled."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flambeau as fb
from flambeau._errors import DtypeError, ShapeError
from flambeau.core import _draw
from flambeau.core.cell import Buffer, Parameter
from flambeau.core.module import Module
from flambeau.nn import init

# Each initialiser with what it needs besides the array.
RANDOM: dict[str, Callable[..., jax.Array]] = {
    "uniform_": lambda w, **k: init.uniform_(w, -1.5, 2.0, **k),
    "normal_": lambda w, **k: init.normal_(w, 0.5, 2.0, **k),
    "trunc_normal_": lambda w, **k: init.trunc_normal_(w, 0.1, 0.5, -1.0, 0.4, **k),
    "xavier_uniform_": lambda w, **k: init.xavier_uniform_(w, 2.0, **k),
    "xavier_normal_": lambda w, **k: init.xavier_normal_(w, 2.0, **k),
    "kaiming_uniform_": lambda w, **k: init.kaiming_uniform_(w, 0.2, "fan_out", **k),
    "kaiming_normal_": lambda w, **k: init.kaiming_normal_(w, nonlinearity="relu", **k),
    "orthogonal_": lambda w, **k: init.orthogonal_(w, 3.0, **k),
    "sparse_": lambda w, **k: init.sparse_(w, 0.3, 2.0, **k),
}
EXACT: dict[str, Callable[..., jax.Array]] = {
    "constant_": lambda w: init.constant_(w, 0.3),
    "ones_": init.ones_,
    "zeros_": init.zeros_,
    "eye_": init.eye_,
}
ALL = {**RANDOM, **EXACT}
each_random = pytest.mark.parametrize("name", RANDOM)
each = pytest.mark.parametrize("name", ALL)


class Holder(Module):
    """A module with one parameter and one buffer."""

    weight: Any
    running: Any

    def __init__(self, *shape: int, dtype: Any = jnp.float32) -> None:
        super().__init__()
        self.weight = Parameter(jnp.full(shape, 7, dtype))
        self.register_buffer("running", jnp.full(shape, 7, dtype))


def kolmogorov(samples: np.ndarray, cdf: Callable[[np.ndarray], np.ndarray]) -> float:
    """√n times the largest distance between the samples' distribution and `cdf`; above 1.95 once in a thousand times."""
    x = np.sort(np.asarray(samples, np.float64).ravel())
    expected, n = cdf(x), x.size
    steps = np.arange(n + 1) / n
    return math.sqrt(n) * max(np.max(steps[1:] - expected), np.max(expected - steps[:-1]))


def normal_cdf(mean: float, std: float, a: float = -math.inf, b: float = math.inf) -> Any:
    """The distribution function of a normal distribution restricted to [a, b]."""
    # By way of the tail that is small, which keeps its digits.
    side = -1.0 if a > mean else 1.0

    def phi(x: Any) -> Any:
        return np.vectorize(lambda v: side * math.erfc(-side * (v - mean) / std / math.sqrt(2)) / 2)(x)

    return lambda x: (phi(x) - phi(a)) / (phi(b) - phi(a))


def uniform_cdf(a: float, b: float) -> Any:
    return lambda x: np.clip((x - a) / (b - a), 0, 1)


# -- what is filled ----------------------------------------------------------------------------------------------------------


@each
def test_an_array_read_from_a_module_names_what_is_filled(name: str) -> None:
    holder = Holder(6, 4)
    parameter, buffer = holder.get_parameter("weight"), holder.get_buffer("running")
    for attribute in ("weight", "running"):
        old = getattr(holder, attribute)
        new = ALL[name](old)
        assert new is getattr(holder, attribute)
        assert new is not old and not np.array_equal(new, old)
        np.testing.assert_array_equal(old, jnp.full((6, 4), 7.0))
    assert holder.get_parameter("weight") is parameter and holder.get_buffer("running") is buffer


@each
def test_cells_are_filled_and_plain_arrays_stay(name: str) -> None:
    parameter, buffer, array = Parameter(jnp.ones((6, 4))), Buffer(jnp.full((6, 4), 9.0)), jnp.full((6, 4), 9.0)
    assert ALL[name](parameter) is parameter.data
    assert ALL[name](buffer) is buffer.data
    assert not (buffer.data == 9).any()
    assert not (ALL[name](array) == 9).any()
    assert not (ALL[name](np.full((6, 4), 9.0, np.float32)) == 9).any()
    assert (array == 9).all()


def test_a_stale_array_fills_nothing() -> None:
    """What the module's docstring says: the identity of an array is all that is known of it."""
    holder = Holder(3, 3)
    stale = holder.weight
    held = init.ones_(stale)
    assert (init.zeros_(stale) == 0).all()
    assert holder.weight is held and (held == 1).all()


def test_ties_are_filled_once() -> None:
    class Tied(Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = Holder(3, 2), Holder(3, 2)
            self.b.weight = self.a.weight

    tied = Tied()
    assert init.normal_(tied.b.weight) is tied.a.weight


@each
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64])
def test_dtype_is_kept(name: str, dtype: Any) -> None:
    assert ALL[name](jnp.zeros((6, 4), dtype)).dtype == dtype
    holder = Holder(6, 4, dtype=dtype)
    ALL[name](holder.weight)
    assert holder.weight.dtype == dtype


@each_random
def test_narrow_dtypes_are_float32_rounded(name: str) -> None:
    """Drawn in bfloat16, all numbers of [0, 1) would be multiples of 1/128."""
    wide, narrow = (
        RANDOM[name](jnp.zeros((40, 30), dtype), generator=fb.Generator().manual_seed(3))
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    np.testing.assert_array_equal(wide.astype(jnp.bfloat16), narrow)


@each_random
def test_integers_are_refused(name: str) -> None:
    with pytest.raises(DtypeError, match=r"int32\[6, 4\]"):
        RANDOM[name](jnp.zeros((6, 4), jnp.int32))


def test_a_placed_array_stays_placed() -> None:
    device = jax.devices()[0]
    placed = jax.device_put(jnp.zeros((3, 3)), device)
    assert init.normal_(placed).committed and init.ones_(placed).committed
    assert not init.normal_(jnp.zeros((3, 3))).committed


@each
@pytest.mark.parametrize("wrap", [lambda f: f, fb.jit], ids=["eager", "compiled"])
def test_inside_of_grad(name: str, wrap: Any) -> None:
    """There the parameter's value is a tracer, and the key is not; nothing of the old value is left."""

    def loss(holder: Holder) -> Any:
        old = holder.weight
        return (old**2).sum() + (ALL[name](holder.weight) * holder.weight).sum()

    holder = Holder(6, 4)
    gradients = wrap(fb.grad(loss))(holder)
    np.testing.assert_array_equal(gradients["weight"], jnp.full((6, 4), 14.0))
    assert not (holder.weight == 7).any()


# -- randomness --------------------------------------------------------------------------------------------------------------


@each_random
def test_generators(name: str) -> None:
    def fill(**given: Any) -> jax.Array:
        return RANDOM[name](jnp.zeros((6, 4)), **given)

    fb.manual_seed(1)
    first, second = fill(), fill()
    assert not np.array_equal(first, second)
    fb.manual_seed(1)
    own = fb.Generator().manual_seed(1)
    np.testing.assert_array_equal(first, fill(generator=own))
    np.testing.assert_array_equal(first, fill())
    np.testing.assert_array_equal(second, fill(generator=own))


SIZES = {(6, 4): "one small block", (70, 20): "one block", (300, 250): "two blocks"}


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        *((name, (6, 4)) for name in ALL),
        *((f"{kind}_", shape) for kind in ("uniform", "normal") for shape in list(SIZES)[1:]),
    ],
    ids=lambda value: value if isinstance(value, str) else SIZES[value],
)
def test_compiled_numbers_are_the_eager_ones(name: str, shape: tuple[int, ...]) -> None:
    eager, compiled = Holder(*shape), Holder(*shape)
    fb.manual_seed(2)
    ALL[name](eager.weight)
    later = fb.get_rng_state()

    @fb.jit
    def fill(holder: Holder) -> jax.Array:
        value = ALL[name](holder.weight)
        assert value is holder.weight
        return value

    fb.manual_seed(2)
    value = fill(compiled)
    np.testing.assert_allclose(compiled.weight, eager.weight, rtol=2e-6, atol=2e-6)
    np.testing.assert_array_equal(value, compiled.weight)
    np.testing.assert_array_equal(later, fb.get_rng_state())


def test_modules_made_inside_a_compiled_function() -> None:
    class Made(Holder):
        def __init__(self) -> None:
            super().__init__(40, 30)
            init.kaiming_uniform_(self.weight)
            init.constant_(self.running, 2.0)

    fb.manual_seed(4)
    eager = Made()
    fb.manual_seed(4)
    made = fb.jit(Made)()
    np.testing.assert_allclose(made.weight, eager.weight, rtol=2e-6, atol=2e-6)
    np.testing.assert_array_equal(made.running, eager.running)
    again = fb.jit(Made)()
    assert not np.array_equal(again.weight, made.weight)


def test_blocks_are_different_and_two_sizes_serve_all() -> None:
    """No number comes twice in two blocks, and another shape compiles nothing."""
    fb.manual_seed(5)
    values = init.uniform_(jnp.zeros((3, _draw._LARGE), jnp.float64))
    assert np.unique(values).size > 0.999 * values.size
    shapes = [(3,), (5, 7), (1023,), (1025,), (40, 50, 2), (300, 301)]
    targets = [jax.device_put(np.zeros(shape, np.float32)) for shape in shapes]
    for size in (1, 1025):
        init.normal_(targets[0] if size == 1 else targets[-1])
    logger, seen = logging.getLogger("jax"), []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(record.getMessage())
    logger.addHandler(handler)
    try:
        with jax.log_compiles():
            for target in targets:
                init.normal_(target)
    finally:
        logger.removeHandler(handler)
    assert [message for message in seen if "Compiling" in message] == []


# -- distributions -----------------------------------------------------------------------------------------------------------

SHAPE = (300, 20, 5)  # fan_in 100, fan_out 1500
RELU = math.sqrt(2.0)
DISTRIBUTIONS: list[tuple[str, Callable[..., Any], Any]] = [
    ("uniform_", lambda w: init.uniform_(w), uniform_cdf(0, 1)),
    ("uniform_", lambda w: init.uniform_(w, -3, 0.5), uniform_cdf(-3, 0.5)),
    ("normal_", lambda w: init.normal_(w), normal_cdf(0, 1)),
    ("normal_", lambda w: init.normal_(w, 5, 0.1), normal_cdf(5, 0.1)),
    ("xavier_uniform_", lambda w: init.xavier_uniform_(w), uniform_cdf(-math.sqrt(6 / 1600), math.sqrt(6 / 1600))),
    ("xavier_normal_", lambda w: init.xavier_normal_(w, 0.5), normal_cdf(0, 0.5 * math.sqrt(2 / 1600))),
    ("kaiming_uniform_", lambda w: init.kaiming_uniform_(w, math.sqrt(5)), uniform_cdf(-0.1, 0.1)),
    ("kaiming_normal_", lambda w: init.kaiming_normal_(w, mode="fan_out"), normal_cdf(0, RELU / math.sqrt(1500))),
    ("trunc_normal_", lambda w: init.trunc_normal_(w), normal_cdf(0, 1, -2, 2)),
    ("trunc_normal_", lambda w: init.trunc_normal_(w, 1, 2, 0, 9), normal_cdf(1, 2, 0, 9)),
    ("trunc_normal_", lambda w: init.trunc_normal_(w, -1, 2, -9, 0), normal_cdf(-1, 2, -9, 0)),
    ("trunc_normal_", lambda w: init.trunc_normal_(w, 0, 1, 1.5, math.inf), normal_cdf(0, 1, 1.5, math.inf)),
    ("trunc_normal_", lambda w: init.trunc_normal_(w, 0, 1, -math.inf, math.inf), normal_cdf(0, 1)),
]


@pytest.mark.parametrize(
    ("name", "fill", "cdf"), DISTRIBUTIONS, ids=[f"{i}-{d[0]}" for i, d in enumerate(DISTRIBUTIONS)]
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_distribution(name: str, fill: Any, cdf: Any, dtype: Any) -> None:
    fb.manual_seed(6)
    assert kolmogorov(fill(jax.device_put(np.zeros(SHAPE, dtype))), cdf) < 1.95


@pytest.mark.filterwarnings("ignore:mean is more than 2 std")
@pytest.mark.parametrize(("a", "b"), [(4, 5), (-9, -8.5), (11, math.inf), (11.6, 12), (-20, -13), (30, 31)])
def test_trunc_normal_far_from_the_mean(a: float, b: float) -> None:
    """Where float32 has no probabilities left, the distribution is still this one."""
    fb.manual_seed(7)
    values = np.asarray(init.trunc_normal_(jnp.zeros(SHAPE, jnp.float32), 0.0, 1.0, a, b))
    assert values.min() >= a and values.max() <= b and np.isfinite(values).all()
    # A sample of 3,000: beyond twelve standard deviations the formula is good to 1/144.
    assert kolmogorov(values.ravel()[::10], normal_cdf(0, 1, a, b)) < 1.95


def test_bounds() -> None:
    fb.manual_seed(8)
    values = init.uniform_(jnp.zeros(300_000, jnp.float32), 2, 3)
    assert values.min() >= 2 and values.max() < 3
    for dtype in (jnp.float32, jnp.bfloat16):
        values = init.trunc_normal_(jnp.zeros(300_000, dtype), 0, 0.02, -0.04, 0.04)
        assert abs(values).max() <= jnp.asarray(0.04, dtype)
    assert (init.trunc_normal_(jnp.zeros(4), 0, 1, 0.5, 0.5) == 0.5).all()
    assert (init.uniform_(jnp.zeros(4), 2, 2) == 2).all()
    assert (init.normal_(jnp.zeros(4), 2, 0) == 2).all()


def test_complex_normal() -> None:
    fb.manual_seed(9)
    values = np.asarray(init.normal_(jnp.zeros(SHAPE, jnp.complex64), 1, 2))
    assert kolmogorov(np.real(values), normal_cdf(1, math.sqrt(2))) < 1.95
    assert kolmogorov(np.imag(values), normal_cdf(0, math.sqrt(2))) < 1.95


@pytest.mark.parametrize("shape", [(5, 5), (4, 9), (9, 4), (6, 2, 3, 3), (20, 2, 3), (1, 4), (4, 1)])
def test_orthogonal(shape: tuple[int, ...]) -> None:
    matrix = np.asarray(init.orthogonal_(jnp.zeros(shape), 3.0)).reshape(shape[0], -1)
    matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    np.testing.assert_allclose(matrix @ matrix.T, 9 * np.eye(len(matrix)), atol=1e-12)


def test_orthogonal_is_uniform() -> None:
    """Each element of a uniform 3 × 3 rotation or reflection is uniform in [-1, 1], as a coordinate on the sphere is."""
    fb.manual_seed(10)
    elements = np.asarray([init.orthogonal_(jnp.zeros((3, 3))) for _ in range(400)])
    for row, column in ((0, 0), (1, 2), (2, 2)):
        assert kolmogorov(elements[:, row, column], uniform_cdf(-1, 1)) < 1.95


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.55, 1.0])
def test_sparse(sparsity: float) -> None:
    fb.manual_seed(11)
    values = np.asarray(init.sparse_(jnp.zeros((20, 500)), sparsity, 2.0))
    zeros = math.ceil(sparsity * 20)
    assert ((values == 0).sum(0) == zeros).all()
    if 0 < zeros < 20:
        assert abs((values == 0).mean(1) - zeros / 20).max() < 5 * math.sqrt(0.25 / 500)
        assert kolmogorov(values[values != 0], normal_cdf(0, 2)) < 1.95


# -- mistakes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_"])
def test_fans_need_two_dimensions(name: str) -> None:
    eager: Any = getattr(init, name)
    both: list[Any] = [eager, fb.jit(eager)]
    for fill in both:
        with pytest.raises(ShapeError, match=r"^Fan in and fan out can not be computed .* got float64\[3\]"):
            fill(jnp.zeros(3))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: init.eye_(jnp.zeros((2, 2, 2))), ShapeError, "Only tensors with 2 dimensions"),
        (lambda: init.sparse_(jnp.zeros(2), 0.1), ShapeError, "Only tensors with 2 dimensions"),
        (lambda: init.orthogonal_(jnp.zeros(2)), ShapeError, "Only tensors with 2 or more dimensions"),
        (lambda: init.dirac_(jnp.zeros((2, 2))), ShapeError, "Only tensors with 3, 4, or 5 dimensions"),
        (lambda: init.dirac_(jnp.zeros((5, 2, 2)), 2), ShapeError, "dim 0 must be divisible by groups"),
        (lambda: init.uniform_(jnp.zeros(2), 1, 0), RuntimeError, "from=1 > to=0"),
        (lambda: init.normal_(jnp.zeros(2), 0, -1), RuntimeError, "std >= 0.0, but found std -1"),
        (lambda: init.trunc_normal_(jnp.zeros(2), a=1, b=0), RuntimeError, "a=1 > b=0"),
        (lambda: init.kaiming_normal_(jnp.zeros((2, 2)), mode="in"), ValueError, "Mode in not supported"),
        (lambda: init.kaiming_normal_(jnp.zeros((2, 2)), nonlinearity="x"), ValueError, "Unsupported nonlinearity x"),
    ],
)
def test_mistakes(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("fill", [init.kaiming_uniform_, init.kaiming_normal_])
def test_nothing_to_fill(fill: Any) -> None:
    holder = Holder(0, 3)
    for target in (holder.weight, holder.get_parameter("weight")):
        with pytest.warns(UserWarning, match="Initializing zero-element tensors is a no-op") as caught:
            assert fill(target) is holder.weight
        assert caught[0].filename == __file__
    assert init.orthogonal_(holder.weight) is holder.weight
    assert init.normal_(jnp.zeros((3, 0))).shape == (3, 0)


# -- against torch -----------------------------------------------------------------------------------------------------------


def test_names_and_arguments(torch: Any) -> None:
    assert set(init.__all__) == set(torch.nn.init.__all__)
    for name in init.__all__:
        if name.removesuffix("_") + "_" != name and name != "calculate_gain":
            continue
        mine, its = (inspect.signature(getattr(module, name)).parameters for module in (init, torch.nn.init))
        assert [(p.name, p.default, p.kind) for p in mine.values()] == [
            (p.name, p.default, p.kind) for p in its.values()
        ]


@pytest.mark.parametrize("name", [name for name in init.__all__ if name + "_" in init.__all__])
def test_deprecated_names(torch: Any, name: str) -> None:
    more = {"constant": (2.0,), "sparse": (0.5,)}.get(name, ())
    shape = (3, 3, 3) if name == "dirac" else (3, 3)
    fb.manual_seed(12)
    with pytest.warns(FutureWarning) as mine:
        value = getattr(init, name)(jnp.zeros(shape), *more)
    with pytest.warns(FutureWarning) as its:
        getattr(torch.nn.init, name)(torch.zeros(shape), *more)
    assert str(mine[0].message) == str(its[0].message) and mine[0].filename == __file__
    fb.manual_seed(12)
    np.testing.assert_array_equal(value, getattr(init, name + "_")(jnp.zeros(shape), *more))
    assert getattr(init, name).__name__ == getattr(torch.nn.init, name).__name__


def test_gains(torch: Any) -> None:
    convolutions = [f"conv{t}{n}d" for t in ("", "_transpose") for n in (1, 2, 3)]
    for name in ["linear", "sigmoid", "tanh", "relu", "leaky_relu", "selu", *convolutions]:
        assert init.calculate_gain(name) == torch.nn.init.calculate_gain(name)
    for slope in (0, 0.2, 3, math.sqrt(5)):
        assert init.calculate_gain("leaky_relu", slope) == torch.nn.init.calculate_gain("leaky_relu", slope)
    for name, parameter in (("gelu", None), ("leaky_relu", "0.1"), ("leaky_relu", True)):
        with pytest.raises(ValueError) as its:
            torch.nn.init.calculate_gain(name, parameter)
        with pytest.raises(ValueError) as mine:
            init.calculate_gain(name, parameter)  # pyright: ignore[reportArgumentType]
        assert str(mine.value) == str(its.value)


SHAPES = [(4, 4, 3), (4, 2, 4), (2, 4, 5), (6, 2, 3, 3), (6, 3, 2, 4), (4, 2, 3, 2, 1), (2, 6, 1, 1, 4), (0, 2, 3)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("groups", [1, 2])
def test_dirac(torch: Any, shape: tuple[int, ...], groups: int) -> None:
    expected = torch.nn.init.dirac_(torch.empty(shape), groups).numpy()
    np.testing.assert_array_equal(init.dirac_(jnp.zeros(shape), groups), expected)
    np.testing.assert_array_equal(fb.jit(lambda w: init.dirac_(w, groups))(jnp.zeros(shape)), expected)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("shape", [(3, 3), (2, 5), (5, 2), (0, 3)])
def test_exact(torch: Any, name: str, shape: tuple[int, ...]) -> None:
    its = {"constant_": lambda w: torch.nn.init.constant_(w, 0.3)}.get(name) or getattr(torch.nn.init, name)
    np.testing.assert_array_equal(EXACT[name](jnp.ones(shape, jnp.float32)), its(torch.empty(shape)).numpy())
    compiled: Any = fb.jit(EXACT[name])
    np.testing.assert_array_equal(compiled(jnp.ones(shape, jnp.float32)), its(torch.empty(shape)).numpy())


@each_random
def test_the_same_distribution_as_torch(torch: Any, name: str) -> None:
    """Two-sample Kolmogorov–Smirnov: the samples of the one against the distribution of the other's."""
    fb.manual_seed(13)
    torch.manual_seed(13)
    arguments = {
        "uniform_": (-1.5, 2.0),
        "normal_": (0.5, 2.0),
        "trunc_normal_": (0.1, 0.5, -1.0, 0.4),
        "xavier_uniform_": (2.0,),
        "xavier_normal_": (2.0,),
        "kaiming_uniform_": (0.2, "fan_out"),
        "kaiming_normal_": (0, "fan_in", "relu"),
        "orthogonal_": (3.0,),
        "sparse_": (0.3, 2.0),
    }[name]
    mine = np.asarray(RANDOM[name](jnp.zeros((120, 80), jnp.float32))).ravel()
    its = np.sort(getattr(torch.nn.init, name)(torch.empty(120, 80), *arguments).numpy().ravel())
    everything = np.concatenate([mine, its])
    gap = np.searchsorted(np.sort(mine), everything, "right") - np.searchsorted(its, everything, "right")
    assert abs(gap).max() / mine.size * math.sqrt(mine.size / 2) < 1.95
