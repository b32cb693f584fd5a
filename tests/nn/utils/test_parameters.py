"""Parameters as a vector, layers folded into one, modules without initial values."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flambeau as fb
from flambeau import nn

X = np.random.default_rng(0).normal(size=(2, 3, 5, 5))


def net() -> Any:
    fb.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def test_there_and_back() -> None:
    source, target = net(), nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    vector = nn.utils.parameters_to_vector(source.parameters())
    assert vector.shape == (26,)
    nn.utils.vector_to_parameters(vector, target.parameters())
    jax.tree.map(np.testing.assert_array_equal, dict(source.state_dict()), dict(target.state_dict()))
    np.testing.assert_array_equal(vector, nn.utils.parameters_to_vector([p.data for p in target.parameters()]))


def test_the_gradient_by_the_vector_flows_into_the_parameters_and_leaves_them() -> None:
    model, x = net(), jnp.ones(3, jnp.float32)
    vector = nn.utils.parameters_to_vector(model.parameters())

    def loss(vector: Any) -> Any:
        nn.utils.vector_to_parameters(2 * vector, model.parameters())
        return model(x).sum()

    gradient = fb.jit(fb.grad(loss))(vector)
    model_gradient = fb.grad(lambda model: model(x).sum())(model)  # which now has twice the weights
    np.testing.assert_allclose(gradient, 2 * nn.utils.parameters_to_vector(model_gradient.values()), rtol=1e-9)
    np.testing.assert_allclose(2 * vector, nn.utils.parameters_to_vector(model.parameters()))


def test_mistakes_with_vectors_change_nothing() -> None:
    model = net()
    before = dict(model.state_dict())
    with pytest.raises(fb.ShapeError, match="the 26 values that the parameters have, got shape \\(25,\\)"):
        nn.utils.vector_to_parameters(jnp.ones(25), model.parameters())
    with pytest.raises(TypeError, match=r"expected a jax\.Array, got list"):
        nn.utils.vector_to_parameters([1.0], model.parameters())  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="read from a module"):
        nn.utils.vector_to_parameters(jnp.ones(2), [jnp.ones(2)])
    with pytest.raises(ValueError, match="at least one parameter"):
        nn.utils.parameters_to_vector([])
    jax.tree.map(np.testing.assert_array_equal, before, dict(model.state_dict()))


@pytest.mark.parametrize(
    ("layer", "norm", "transpose"),
    [
        (lambda nn: nn.Conv2d(3, 6, 3), lambda nn: nn.BatchNorm2d(6), False),
        (lambda nn: nn.Conv2d(3, 6, 3, bias=False), lambda nn: nn.BatchNorm2d(6), False),
        (lambda nn: nn.Conv2d(3, 6, 3, groups=3), lambda nn: nn.BatchNorm2d(6, affine=False), False),
        (lambda nn: nn.ConvTranspose2d(3, 6, 3), lambda nn: nn.BatchNorm2d(6), True),
        (lambda nn: nn.Linear(5, 6), lambda nn: nn.BatchNorm1d(6), None),
        (lambda nn: nn.Linear(5, 6, bias=False), lambda nn: nn.BatchNorm1d(1), None),
    ],
)
def test_fusion_is_torchs(torch: Any, layer: Any, norm: Any, transpose: bool | None) -> None:
    def fused(lib: Any, first: Any, second: Any) -> Any:
        if transpose is None:
            return lib.utils.fuse_linear_bn_eval(first, second)
        return lib.utils.fuse_conv_bn_eval(first, second, transpose)

    torch.manual_seed(0)
    theirs = layer(torch.nn).double(), norm(torch.nn).double()
    theirs[1].running_mean.normal_()
    theirs[1].running_var.uniform_(0.5, 2)
    ours = layer(nn).double(), norm(nn).double()
    for a, b in zip(ours, theirs, strict=True):
        a.load_state_dict({name: jnp.asarray(value.numpy()) for name, value in b.state_dict().items()})
        a.eval()
        b.eval()
    one, other = fused(nn, *ours), fused(torch.nn, *theirs)
    for (name, a), (_, b) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        np.testing.assert_allclose(a.data, np.broadcast_to(b.detach().numpy(), a.shape), rtol=1e-10, err_msg=name)
        assert a.requires_grad == b.requires_grad, name
    x = X if transpose is not None else X[0, 0]
    expected = (
        ours[1](ours[0](jnp.asarray(x))) if ours[1].num_features != 1 else other(torch.tensor(x)).detach().numpy()
    )
    np.testing.assert_allclose(one(jnp.asarray(x)), expected, rtol=1e-9, atol=1e-12)


def test_fusion_mistakes() -> None:
    conv, norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
    with pytest.raises(fb.StateError, match="call eval"):
        nn.utils.fuse_conv_bn_eval(conv.eval(), norm)
    with pytest.raises(fb.StateError, match="no running statistics"):
        nn.utils.fuse_conv_bn_eval(conv, nn.BatchNorm2d(6, track_running_stats=False).eval())
    with pytest.raises(fb.ShapeError, match="of 6 features or one, got 5"):
        nn.utils.fuse_linear_bn_eval(nn.Linear(5, 6).eval(), nn.BatchNorm1d(5).eval())


def test_skip_init_draws_nothing() -> None:
    fb.manual_seed(3)
    before = fb.get_rng_state()
    layer = nn.utils.skip_init(nn.TransformerEncoderLayer, 8, nhead=2, dim_feedforward=16, dtype=jnp.float16)
    np.testing.assert_array_equal(before, fb.get_rng_state())
    drawn = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=16, dtype=jnp.float16)
    assert repr(layer) == repr(drawn)
    shapes = [{name: (a.shape, a.dtype) for name, a in each.state_dict().items()} for each in (layer, drawn)]
    assert shapes[0] == shapes[1]
    assert all(not parameter.data.any() for parameter in layer.parameters())
    layer.load_state_dict(drawn.state_dict())
    x = jnp.ones((3, 8), jnp.float16)
    np.testing.assert_array_equal(layer.eval()(x), drawn.eval()(x))


def test_skip_init_inside_of_a_compiled_function_and_on_a_device() -> None:
    layer = nn.utils.skip_init(nn.Linear, 2, 1, device="cpu")
    assert layer.weight.devices() == {jax.devices("cpu")[0]}
    assert fb.jit(lambda x: nn.utils.skip_init(nn.Linear, 2, 1)(x))(jnp.ones(2, jnp.float32)) == 0
    with pytest.raises(RuntimeError, match=r"expected a subclass of nn\.Module"):
        nn.utils.skip_init(lambda: None)  # pyright: ignore[reportArgumentType]
