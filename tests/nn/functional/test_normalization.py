"""Normalization: parity with torch, the running statistics, precision, and errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from flambeau._errors import DtypeError, ShapeError
from flambeau.nn import functional as F
from tests.nn.functional.parity import compare, normal

SHAPES = [(5, 3), (4, 3, 6), (2, 3, 4, 5), (2, 3, 2, 3, 2)]


def parameters(channels: int, *, affine: bool = True) -> dict[str, Any]:
    if not affine:
        return {}
    return {"weight": normal(channels, seed=3), "bias": normal(channels, seed=4)}


@pytest.mark.parametrize(("shape", "affine"), [*((shape, True) for shape in SHAPES), (SHAPES[0], False)])
def test_batch_norm_in_training(torch: Any, shape: tuple[int, ...], affine: bool) -> None:
    options = {"training": True, "eps": 1e-3, **parameters(3, affine=affine)}
    compare(torch, F.batch_norm, torch.nn.functional.batch_norm, normal(*shape), None, None, second=True, **options)


@pytest.mark.parametrize("shape", SHAPES)
def test_batch_norm_with_running_statistics(torch: Any, shape: tuple[int, ...]) -> None:
    mean, var = np.array([0.1, 0.2, 0.3]), np.array([0.5, 1.0, 2.0])

    def theirs(x: Any, mean: Any, var: Any, **options: Any) -> Any:
        return torch.nn.functional.batch_norm(x, mean.detach(), var.detach(), **options)

    def ours(x: jax.Array, mean: jax.Array, var: jax.Array, **options: Any) -> jax.Array:
        return F.batch_norm(x, jax.lax.stop_gradient(mean), jax.lax.stop_gradient(var), **options)

    compare(torch, ours, theirs, normal(*shape), mean, var, second=True, **parameters(3))


def running_statistics(torch: Any, name: str, x: np.ndarray, **options: Any) -> None:
    mean, var = torch.tensor([0.1, 0.2, 0.3]).double(), torch.tensor([0.5, 1.0, 2.0]).double()
    given = [jnp.asarray(mean.numpy().copy()), jnp.asarray(var.numpy().copy())]
    getattr(torch.nn.functional, name)(torch.tensor(x), mean, var, **options)
    _, new_mean, new_var = jax.jit(lambda x, m, v: getattr(F, f"{name}_with_stats")(x, m, v, **options))(x, *given)
    np.testing.assert_allclose(new_mean, mean.numpy(), rtol=1e-12)
    np.testing.assert_allclose(new_var, var.numpy(), rtol=1e-12)


@pytest.mark.parametrize(("shape", "momentum"), [(SHAPES[0], 0.1), (SHAPES[1], 1.0), (SHAPES[2], 0.3)])
def test_running_statistics_move_as_in_torch(torch: Any, shape: tuple[int, ...], momentum: float) -> None:
    running_statistics(torch, "batch_norm", normal(*shape), training=True, momentum=momentum)
    if len(shape) > 2:
        running_statistics(torch, "instance_norm", normal(*shape), momentum=momentum)


def test_running_statistics_keep_their_dtype_and_carry_no_gradient() -> None:
    x, half = jnp.asarray(normal(4, 3)), jnp.ones(3, jnp.bfloat16)
    momentum = jnp.asarray(0.5, jnp.float64)
    _, mean, var = jax.eval_shape(
        lambda x: F.batch_norm_with_stats(x, half, half, training=True, momentum=momentum), x.astype(jnp.bfloat16)
    )
    assert mean is not None and var is not None and mean.dtype == var.dtype == jnp.bfloat16

    def moved(x: jax.Array) -> jax.Array:
        _, mean, var = F.batch_norm_with_stats(x, jnp.zeros(3), jnp.ones(3), training=True)
        assert mean is not None and var is not None
        return mean.sum() + var.sum()

    np.testing.assert_array_equal(jax.jit(jax.grad(moved))(x), 0)


def test_statistics_are_returned_as_they_are_outside_of_training() -> None:
    mean, var = jnp.zeros(3), jnp.ones(3)
    _, same_mean, same_var = F.batch_norm_with_stats(jnp.ones((4, 3)), mean, var)
    assert same_mean is mean and same_var is var
    _, same_mean, same_var = F.instance_norm_with_stats(jnp.ones((4, 3, 1)), mean, var, use_input_stats=False)
    assert same_mean is mean and same_var is var


@pytest.mark.parametrize(("shape", "affine"), [*((shape, True) for shape in SHAPES[1:]), (SHAPES[1], False)])
def test_instance_norm(torch: Any, shape: tuple[int, ...], affine: bool) -> None:
    options = parameters(3, affine=affine)
    compare(torch, F.instance_norm, torch.nn.functional.instance_norm, normal(*shape), second=True, **options)


def test_instance_norm_with_running_statistics(torch: Any) -> None:
    mean, var = jnp.asarray([0.1, 0.2, 0.3]), jnp.asarray([0.5, 1.0, 2.0])
    x = normal(2, 3, 4)
    found = F.instance_norm(jnp.asarray(x), mean, var, use_input_stats=False)
    np.testing.assert_allclose(found, F.batch_norm(jnp.asarray(x), mean, var), rtol=1e-12)
    running = [torch.tensor(np.array(each)) for each in (mean, var)]
    expected = torch.nn.functional.instance_norm(torch.tensor(x), *running, use_input_stats=False)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-12)


@pytest.mark.parametrize(
    ("shape", "normalized"), [((5, 4), (4,)), ((2, 3, 4), (4,)), ((2, 3, 4), (3, 4)), ((4,), (4,)), ((0, 4), (4,))]
)
def test_layer_and_rms_norm(torch: Any, shape: tuple[int, ...], normalized: tuple[int, ...]) -> None:
    theirs, second = torch.nn.functional, 0 not in shape
    weight, bias = normal(*normalized, seed=3), normal(*normalized, seed=4)
    compare(torch, F.layer_norm, theirs.layer_norm, normal(*shape), normalized, weight, bias, second=second)
    compare(torch, F.rms_norm, theirs.rms_norm, normal(*shape), normalized, weight, second=second)


def test_norms_without_parameters(torch: Any) -> None:
    for name, size in (("layer_norm", (4,)), ("rms_norm", (4,)), ("group_norm", 2)):
        ours, theirs = getattr(F, name), getattr(torch.nn.functional, name)
        compare(torch, ours, theirs, normal(2, 4, 4), size, eps=0.1)


@pytest.mark.parametrize(
    ("shape", "groups"), [((4, 6), 2), ((4, 6), 6), ((2, 6, 3), 1), ((2, 6, 3), 6), ((2, 6, 2, 3), 3)]
)
def test_group_norm(torch: Any, shape: tuple[int, ...], groups: int) -> None:
    arrays = normal(*shape), groups, normal(6, seed=3), normal(6, seed=4)
    compare(torch, F.group_norm, torch.nn.functional.group_norm, *arrays, second=len(shape) == 3)


@pytest.mark.parametrize(
    ("shape", "size"), [((2, 4, 3), 1), ((2, 4, 3), 2), ((2, 4, 3), 6), ((2, 4, 3, 2), 3), ((2, 4, 3, 2, 2), 5)]
)
def test_local_response_norm(torch: Any, shape: tuple[int, ...], size: int) -> None:
    theirs = torch.nn.functional.local_response_norm
    compare(torch, F.local_response_norm, theirs, normal(*shape), size, 0.5, 0.75, 2.0, second=size == 3)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, 0.5, 1.5, float("inf"), -1.0, -float("inf"), 0.0])
def test_normalize(torch: Any, p: float) -> None:
    """Also where elements, or whole vectors, are zero, and where several are the largest."""
    x = normal(3, 4)
    if p > 0:
        x = np.concatenate([x, [[0.0, 0.0, 0.0, 0.0], [3.0, 0.0, 4.0, 1.0], [1.0, 1.0, -1.0, 0.0]]])
    compare(torch, F.normalize, torch.nn.functional.normalize, x, p, tolerance=1e-7)


@pytest.mark.parametrize("dim", [0, -1, (1, 2)])
def test_normalize_along(torch: Any, dim: Any) -> None:
    compare(torch, F.normalize, torch.nn.functional.normalize, normal(3, 4, 2), 2.0, dim, second=dim == 0)


HALVES: list[tuple[str, Callable[[Any, Any, Any], Any]]] = [
    ("batch_norm", lambda norm, x, w: norm(x, None, None, w, w, training=True)),
    ("instance_norm", lambda norm, x, w: norm(x, weight=w, bias=w)),
    ("layer_norm", lambda norm, x, w: norm(x, (50,), eps=1e-3)),
    ("group_norm", lambda norm, x, w: norm(x, 2, w, w)),
    ("rms_norm", lambda norm, x, w: norm(x, (50,))),
    ("local_response_norm", lambda norm, x, w: norm(x, 3, alpha=0.5)),
    ("normalize", lambda norm, x, w: norm(x)),
]


def test_half_precision() -> None:
    """Statistics in float32, also far from zero; parameters of either dtype; a result in the input's dtype."""
    x, w = jnp.asarray(normal(4, 6, 50) + 5, jnp.bfloat16), jnp.asarray(normal(6, seed=3), jnp.bfloat16)
    run = jax.jit(lambda x, w: [call(getattr(F, name), x, w) for name, call in HALVES])
    expected = run(x.astype(jnp.float64), w.astype(jnp.float64))
    for parameter in (w, w.astype(jnp.float32)):
        for (name, _), found, right in zip(HALVES, run(x, parameter), expected):
            assert found.dtype == jnp.bfloat16, name
            np.testing.assert_allclose(np.float64(found), right, rtol=2**-8, atol=1e-4, err_msg=name)


def test_variance_survives_a_large_mean() -> None:
    """The mean of squares less the square of the mean would be nothing but rounding here."""
    x = (10_000 + normal(200, 3)).astype(np.float32)
    expected = (x.astype(np.float64) - x.mean(0, dtype=np.float64)) / x.std(0, dtype=np.float64)
    found = jax.jit(lambda x: F.batch_norm(x, None, None, training=True))(x)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, atol=5e-3)


def test_forward_mode_agrees_with_reverse_mode() -> None:
    x, dx = jnp.asarray(normal(4, 3)), jnp.asarray(normal(4, 3, seed=1))

    def loss(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(F.batch_norm(x, None, None, jnp.arange(1.0, 4), training=True)))

    forward, reverse = jax.jit(lambda: (jax.jvp(loss, (x,), (dx,))[1], jnp.vdot(jax.grad(loss)(x), dx)))()
    assert forward == pytest.approx(float(reverse))


def test_batch_norm_under_vmap() -> None:
    x = jnp.asarray(normal(2, 4, 3))
    one = lambda x: F.batch_norm(x, None, None, training=True)  # noqa: E731
    np.testing.assert_allclose(jax.vmap(one)(x), jnp.stack([one(x[0]), one(x[1])]), rtol=1e-12)


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_the_way_back_keeps_cotangents_on_cpus_alone(platform: str) -> None:
    def loss(x: jax.Array, weight: jax.Array) -> jax.Array:
        return jnp.sum(F.layer_norm(x, (3,), weight) ** 3)

    def barriers(argnum: int) -> int:
        exported = jax.export.export(jax.jit(jax.grad(loss, argnum)), platforms=[platform])(
            jnp.ones((2, 3)), jnp.ones(3)
        )
        return exported.mlir_module().count("stablehlo.optimization_barrier")

    assert barriers(0) == (platform == "cpu")
    assert barriers(1) == 0  # an input that is not differentiated has no cotangent


def test_errors_of_batch_and_instance_norm() -> None:
    x, three, four = jnp.ones((2, 3, 4)), jnp.ones(3), jnp.ones(4)
    with pytest.raises(ShapeError, match=r"running_mean \(3,\), got float64\[4\]; expected weight \(3,\)"):
        F.batch_norm(x, four, three, four)
    with pytest.raises(DtypeError, match="expected weight of dtype float64, got float32"):
        F.batch_norm(x, three, three, three.astype(jnp.float32))
    with pytest.raises(ShapeError, match=r"\(N, C, \*\), got float64\[3\]"):
        F.batch_norm(three, three, three)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        F.batch_norm(jnp.ones((1, 3, 1)), three, three, training=True)
    with pytest.raises(ValueError, match="Expected more than 1 spatial element"):
        F.instance_norm(jnp.ones((2, 3, 1)))
    for wrong in (lambda: F.batch_norm(x, None, None), lambda: F.instance_norm(x, use_input_stats=False)):
        with pytest.raises(RuntimeError, match="running_mean and running_var where"):
            wrong()
    with pytest.raises(ValueError, match="or neither"):
        F.batch_norm(x, three, None, training=True)
    for eps, training in ((-1.0, False), (0.0, True)):
        with pytest.raises(ValueError, match="eps"):
            F.batch_norm(x, three, three, training=training, eps=eps)


def test_errors_of_other_norms() -> None:
    x = jnp.ones((4, 6))
    for norm in (F.layer_norm, F.rms_norm):
        with pytest.raises(ShapeError, match=r"expected input \(\*, 5\), got float64\[4, 6\]"):
            norm(x, (5,))
        with pytest.raises(ShapeError, match="at least one dimension"):
            norm(x, ())
        with pytest.raises(ShapeError, match=r"weight \(6,\), got float64\[5\]"):
            norm(x, (6,), jnp.ones(5))
    for groups in (4, 0, -1):
        with pytest.raises(ShapeError, match="num_groups"):
            F.group_norm(x, groups)
    with pytest.raises(ValueError, match="more than 1 value"):
        F.group_norm(jnp.ones((1, 6)), 6)
    with pytest.raises(ShapeError, match="at least 3 dimensions"):
        F.local_response_norm(x, 2)
    with pytest.raises(ValueError, match="out=None"):
        F.normalize(x, out=x)  # pyright: ignore[reportArgumentType]
