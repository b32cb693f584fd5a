"""What batch normalization keeps: its running statistics over several batches, and old state dicts."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flambeau as fb
from flambeau import nn
from tests.layer_table import normal

SETTINGS: list[dict[str, Any]] = [{}, {"momentum": None}, {"momentum": 0.0}, {"affine": False, "eps": 0.1}]
BATCHES = [3 * normal(5, 2, 3, what=f"batch {i}") + 1 for i in range(3)]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("compiled", [False, True])
def test_statistics_over_batches(torch: Any, settings: dict[str, Any], compiled: bool) -> None:
    """The statistics after each of several batches, and what evaluation makes of them."""
    ours, theirs = nn.BatchNorm1d(2, **settings).double(), torch.nn.BatchNorm1d(2, **settings).double()
    call = fb.jit(lambda net, x: net(x)) if compiled else lambda net, x: net(x)
    for mode in (True, True, False, True):
        for x in BATCHES:
            expected = theirs.train(mode)(torch.tensor(x)).detach().numpy()
            np.testing.assert_allclose(call(ours.train(mode), jnp.asarray(x)), expected, rtol=1e-12, atol=1e-12)
            for name, value in theirs.state_dict().items():
                np.testing.assert_allclose(ours.state_dict()[name], value.numpy(), rtol=1e-12, atol=1e-12)


def test_plain_numbers() -> None:
    """The mean of all batches, and the unbiased variance, told without torch."""
    net: Any = nn.BatchNorm1d(2, momentum=None).double()
    for x in BATCHES:
        net(jnp.asarray(x))
    np.testing.assert_allclose(net.running_mean, np.mean([x.mean((0, 2)) for x in BATCHES], 0))
    np.testing.assert_allclose(net.running_var, np.mean([x.var((0, 2)) * 15 / 14 for x in BATCHES], 0))
    assert net.num_batches_tracked == 3
    net.reset_running_stats()
    assert (net.num_batches_tracked, net.running_mean.tolist(), net.running_var.tolist()) == (0, [0, 0], [1, 1])


@pytest.mark.parametrize("training", [True, False])
def test_tracking_switched_off_later(torch: Any, training: bool) -> None:
    """As the attribute allows it: in training nothing moves, in evaluation the statistics are still used."""
    ours: Any = nn.BatchNorm1d(2).double()
    theirs = torch.nn.BatchNorm1d(2).double()
    for net, array in ((ours, jnp.asarray), (theirs, torch.tensor)):
        net(array(BATCHES[0]))
        net.track_running_stats = False
        net.train(training)
    output, expected = ours(jnp.asarray(BATCHES[1])), theirs(torch.tensor(BATCHES[1]))
    np.testing.assert_allclose(output, expected.detach().numpy(), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(ours.running_mean, theirs.running_mean.numpy(), rtol=1e-12, atol=1e-12)
    assert ours.num_batches_tracked == 1


def test_without_statistics_both_modes_use_the_batch() -> None:
    net = nn.BatchNorm1d(2, track_running_stats=False)
    assert net.running_mean is net.running_var is net.num_batches_tracked is None
    assert set(net.state_dict()) == {"weight", "bias"}
    x = jnp.asarray(BATCHES[0], jnp.float32)
    np.testing.assert_array_equal(net.train()(x), net.eval()(x))


def test_other_channels_fit_where_nothing_is_kept() -> None:
    net = nn.BatchNorm2d(3, affine=False, track_running_stats=False)
    assert net(jnp.ones((2, 5, 2, 2))).shape == (2, 5, 2, 2)


def test_state_dict_from_before_batches_were_counted() -> None:
    """Version 1 had no `num_batches_tracked`; a dict that says it is of version 2 has to."""
    net = nn.Sequential(nn.BatchNorm1d(2))
    net(jnp.ones((3, 2), jnp.float32))
    state = net.state_dict()
    del state["0.num_batches_tracked"]
    assert state._metadata["0"]["version"] == 2
    with pytest.raises(fb.StateDictError, match=r'Missing key\(s\) in state_dict: "0.num_batches_tracked"'):
        net.load_state_dict(state)
    state._metadata["0"]["version"] = 1
    for old in (state, dict(state)):
        assert net.load_state_dict(old) == ([], [])
        assert net[0].num_batches_tracked == 1


def test_parts_are_absent_as_asked() -> None:
    assert nn.BatchNorm1d(2, affine=False).weight is None
    layer = nn.BatchNorm1d(2, bias=False)
    assert layer.weight is not None
    assert layer.bias is None


def test_statistics_over_a_mapped_axis_are_those_of_the_whole_batch() -> None:
    parts = jnp.asarray(normal(4, 2, 3, 5, what="batches of two on four devices"))
    batch = parts.reshape(8, 3, 5)
    apart, whole = nn.SyncBatchNorm(3, process_group="devices").double(), nn.BatchNorm1d(3).double()
    state = dict(apart.state_dict())

    def loss(x: Any) -> Any:
        output, after = fb.functional_call(apart, state, x, return_state=True)
        return jax.lax.psum((output**3).sum(), "devices"), (output, after)

    def cubes(x: Any) -> Any:
        output = whole(x)
        return (output**3).sum(), output

    mapped = jax.vmap(loss, out_axes=(None, (0, None)), axis_name="devices")
    gradient, (output, after) = jax.grad(mapped, has_aux=True)(parts)
    expected, expected_output = fb.grad(cubes, has_aux=True)(batch)
    np.testing.assert_allclose(gradient.reshape(batch.shape), expected, rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(output.reshape(batch.shape), expected_output, rtol=1e-9, atol=1e-12)
    for name, value in whole.state_dict().items():
        np.testing.assert_allclose(after[name], value, rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("compiled", [False, True])
def test_conversion_keeps_parameters_statistics_and_mode(compiled: bool) -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.ModuleDict({"norm": nn.BatchNorm1d(3, momentum=None)}).eval())
    before, parameters = dict(net.state_dict()), list(net.parameters())
    convert = nn.SyncBatchNorm.convert_sync_batchnorm
    converted = (fb.jit(convert) if compiled else convert)(net)
    assert converted is net
    norm = net.get_submodule("1.norm")
    assert isinstance(norm, nn.SyncBatchNorm) and not norm.training and norm.momentum is None
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))
    for name, value in net.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
