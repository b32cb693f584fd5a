"""The networks for images against torchvision's and timm's: names, outputs, gradients, training, initial values."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import flambeau as fb
from flambeau import models, nn
from tests.models.goldens import (
    LEARNING_RATE,
    Spec,
    digest,
    filling,
    images,
    read_digests,
    read_golden,
    settings,
)

TINY = [[8], [8], [16]]
SHORT = [
    models.InvertedResidualSizes(3, 16, 16, True, False, 2),
    models.InvertedResidualSizes(3, 24, 24, False, True, 1),
    models.InvertedResidualSizes(5, 32, 24, True, True, 1),
]
finer_norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.01)

# By name, as in scripts/model_goldens/vision.py: how to make the network, and size and channels of its images.
SMALL: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet_basic": (lambda: models.ResNet(models.BasicBlock, [2, 1, 1, 1], num_classes=5, width=16), (48,)),
    "resnext_dilated": (
        lambda: models.ResNet(
            models.Bottleneck,
            [1, 1, 2, 1],
            num_classes=5,
            groups=4,
            width_per_group=8,
            replace_stride_with_dilation=[False, True, True],
            zero_init_residual=True,
            width=16,
        ),
        (32,),
    ),
    "vgg": (lambda: models.VGG(TINY, num_classes=5, dropout=0.0, hidden=32), (32,)),
    "vgg_bn": (lambda: models.VGG(TINY, batch_norm=True, num_classes=5, dropout=0.0, hidden=32), (32,)),
    "vit": (lambda: models.VisionTransformer(16, 8, 2, 3, 24, 48, num_classes=5), (16,)),
    "vit_timm": (lambda: models.TimmVisionTransformer(16, 8, 24, 2, 3, num_classes=5), (16,)),
    "mobilenet_v3_small": (lambda: models.mobilenet_v3_small(width_mult=0.25, num_classes=5, dropout=0.0), (48,)),
    "mobilenet_short": (lambda: models.MobileNetV3(SHORT, 32, num_classes=5, dropout=0.0, width_mult=0.5), (16,)),
    "efficientnet": (lambda: models.EfficientNet(0.25, 0.3, 0.0, 0.0, num_classes=5, norm=finer_norm), (48,)),
    "mbconvs": (
        lambda: nn.Sequential(
            models.MBConv(8, 8, 1, 3), models.MBConv(8, 16, 6, 3, stride=2), models.MBConv(16, 16, 6, 5)
        ),
        (8, 8),
    ),
    "convnext": (lambda: models.ConvNeXt([1, 1], [8, 16], num_classes=5), (16,)),
    "cnblock": (lambda: models.CNBlock(8), (4, 8)),
}
ALL = os.environ.get("FLAMBEAU_MODELS") == "all"
# Whole ones, which take long to compile; by default their blocks are run, and their layers are compared below.
WHOLE = ["mobilenet_v3_small", "efficientnet"]
SLOW_TO_TRAIN = [*WHOLE, "convnext", "resnext_dilated", "mobilenet_short"]
STANDARD = read_digests("vision")
# One of each form, and with FLAMBEAU_MODELS=all all of them.
FEW = (
    "resnet18 resnext50_32x4d wide_resnet50_2 vgg11 vgg13 vgg16_bn vgg19_bn vit_b_32 mobilenet_v3_small "
    "mobilenet_v3_large efficientnet_b0 efficientnet_b5 convnext_tiny vit_tiny_patch16_224 "
    "vit_base_patch32_384"
).split()


def specs(net: nn.Module) -> list[Spec]:
    return [Spec(name, tuple(cell.shape), str(cell.dtype)) for name, cell in net.state_dict(keep_vars=True).items()]


def filled(case: str) -> nn.Module:
    net = SMALL[case][0]().double()
    net.load_state_dict({spec.name: jnp.asarray(filling(*spec)) for spec in specs(net)})
    return net


@pytest.mark.parametrize("case", [case for case in SMALL if ALL or case not in WHOLE])
def test_names_order_shapes_and_outputs(case: str) -> None:
    lines, golden = read_golden(case)
    net = filled(case).eval()
    assert list(map(str, specs(net))) == lines
    out = fb.jit(lambda net, x: net(x))(net, jnp.asarray(images(*SMALL[case][1])))
    np.testing.assert_allclose(out, golden["eval"], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("case", SMALL)
def test_the_number_of_images_may_be_a_name(case: str) -> None:
    """As in an export for batches of any size, also of a step of training."""
    net, (count,) = SMALL[case][0](), jax.export.symbolic_shape("count")
    some = jax.ShapeDtypeStruct((count, *images(*SMALL[case][1]).shape[1:]), jnp.float32)

    def loss(net: Any, x: Any) -> Any:
        out = net(x)
        return out.sum(), out

    assert fb.eval_shape(fb.grad(loss, has_aux=True), net, some)[1].shape[0] == count
    assert fb.eval_shape(lambda net, x: net(x), net.eval(), some).shape[0] == count


@pytest.mark.parametrize("case", [case for case in SMALL if ALL or case not in SLOW_TO_TRAIN])
def test_a_step_of_training(case: str) -> None:
    """Output, loss, gradients and the state afterwards, statistics of batch norms among them."""
    golden = read_golden(case)[1]
    net = filled(case)
    optimizer = fb.optim.SGD(net.parameters(), lr=LEARNING_RATE)

    @fb.jit
    def step(net: Any, optimizer: Any, x: Any) -> Any:
        def loss(net: Any) -> Any:
            out = net(x)
            return (out**2).mean(), out

        (value, out), grads = fb.value_and_grad(loss, has_aux=True)(net)
        optimizer.step(grads)
        return value, out, [jnp.linalg.norm(grads[name].reshape(-1)) for name, _ in net.named_parameters()]

    loss, out, norms = step(net, optimizer, jnp.asarray(images(*SMALL[case][1])))
    np.testing.assert_allclose(out, golden["train"], rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(loss, golden["loss"], rtol=1e-6)
    # The bias of a convolution in front of a batch norm has no gradient but for rounding.
    largest = golden["gradient_norms"].max()
    np.testing.assert_allclose(jnp.stack(norms), golden["gradient_norms"], rtol=1e-6, atol=1e-9 * largest)
    sums = [np.asarray(value, np.float64).sum() for value in net.state_dict().values()]
    np.testing.assert_allclose(sums, golden["sums_after_step"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("case", SMALL)
def test_initial_values_are_drawn_from_the_same_distributions(case: str) -> None:
    """Deviation and mean size of each tensor; the latter tells a uniform distribution from a normal one."""
    golden = read_golden(case)[1]
    for i, (name, parameter) in enumerate(SMALL[case][0]().named_parameters()):
        values = np.asarray(parameter.data, np.float64)
        deviation, size = golden["initial_deviation"][i], golden["initial_size"][i]
        # Both are estimates from as many numbers; a quarter of a deviation's error is what the mean size has.
        tolerance = 6 / np.sqrt(values.size)
        if deviation == 0:
            np.testing.assert_allclose(values, golden["initial_mean"][i], rtol=1e-6, err_msg=name)
        else:
            assert abs(values.std() / deviation - 1) < tolerance, (name, values.std(), deviation)
            assert abs(np.abs(values).mean() / size - 1) < tolerance, (name, np.abs(values).mean(), size)


@pytest.mark.parametrize("name", STANDARD if ALL else FEW)
def test_standard_networks_have_the_names_of_their_checkpoints_and_the_same_layers(name: str) -> None:
    with fb.init_empty():
        net = models.create(name)
    assert {**digest(specs(net)), "settings": settings(net)} == STANDARD[name]
