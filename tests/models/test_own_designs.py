"""The networks whose design is this package's own, and encoders as parts: U-Net, autoencoder, diffusion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import flambeau as fb
from flambeau import models, nn
from flambeau.models import _registry, _vision
from flambeau.nn import functional as F
from tests.models.goldens import images

ENCODERS: dict[str, Callable[[], Any]] = {
    "resnet": lambda: models.ResNet(models.BasicBlock, [1, 1, 1, 1], num_classes=0, width=8),
    "dilated": lambda: models.ResNet(
        models.Bottleneck, [1, 1, 1, 1], num_classes=0, width=8, replace_stride_with_dilation=[False, False, True]
    ),
    "vgg": lambda: models.VGG([[4], [8, 8]], num_classes=0),
    "mobilenet": lambda: models.MobileNetV3([models.InvertedResidualSizes(3, 16, 8, True, True, 2)], 8, num_classes=0),
    "efficientnet": lambda: models.EfficientNet(0.25, 0.3, 0.0, num_classes=0),
    "convnext": lambda: models.ConvNeXt([1, 1], [8, 16], num_classes=0),
    "vit": lambda: models.VisionTransformer(32, 8, 1, 2, 8, 16, num_classes=0),
    "vit_timm": lambda: models.TimmVisionTransformer(32, 8, 8, 1, 2, num_classes=0),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_features_of_an_encoder_and_a_unet_around_it(name: str) -> None:
    """Channels and strides are as announced; the U-Net joins each of them, at the size of the image."""
    encoder = ENCODERS[name]().eval()
    x = jnp.asarray(images(32), jnp.float32)
    maps = fb.eval_shape(lambda encoder, x: encoder.feature_maps(x), encoder, x)
    shapes = {stride: features.shape for stride, features in maps.items()}
    assert shapes == {s: (2, c, 32 // s, 32 // s) for s, c in encoder.feature_channels.items()}
    net = models.UNet(encoder, num_classes=3, decoder_channels=[8, 8, 8, 8, 4])
    assert fb.eval_shape(lambda net, x: net(x), net, x).shape == (2, 3, 32, 32)
    channels, coarsest = encoder.feature_channels, max(encoder.feature_channels)
    before = [channels[coarsest], 8, 8, 8, 8]
    steps = [2**i for i in reversed(range(coarsest.bit_length() - 1))]
    expected = [wide + channels.get(stride, 0) for wide, stride in zip(before, steps)]
    assert [block.conv1[0].in_channels for block in net.decoder] == expected


def test_without_classes_features_come_out() -> None:
    x = jnp.asarray(images(32), jnp.float32)
    shapes = {name: fb.eval_shape(lambda net, x: net(x), make(), x).shape for name, make in ENCODERS.items()}
    assert shapes == {
        "resnet": (2, 64), "dilated": (2, 256), "vgg": (2, 8 * 7 * 7), "mobilenet": (2, 8), "efficientnet": (2, 320),
        "convnext": (2, 16), "vit": (2, 8), "vit_timm": (2, 8),
    }  # fmt: skip


def test_a_unet_takes_images_whose_size_is_odd() -> None:
    net = models.UNet(ENCODERS["resnet"](), num_classes=1, decoder_channels=[8, 8, 8, 8, 4])
    assert fb.eval_shape(lambda net, x: net(x), net, jnp.zeros((1, 3, 45, 67), jnp.float32)).shape == (1, 1, 45, 67)


def test_mistakes_of_a_unet(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="powers of two"):
        models.UNet(models.VisionTransformer(28, 14, 1, 2, 8, 16, num_classes=0), 1)
    with pytest.raises(ValueError, match="expected 5 decoder_channels"):
        models.UNet(ENCODERS["resnet"](), 1, decoder_channels=[8, 8])
    monkeypatch.setitem(_registry._CONSTRUCTORS, "linear", lambda num_classes: nn.Linear(2, 2))
    with pytest.raises(ValueError, match="linear is no network for images"):
        models.create("unet", encoder="linear")


def losses_of_training(net: Any, loss: Callable[[Any], Any], steps: int) -> list[float]:
    """Trains on one batch, compiled."""
    optimizer = fb.optim.Adam(net.parameters(), lr=1e-2)

    @fb.jit
    def step(net: Any, optimizer: Any) -> Any:
        value, grads = fb.value_and_grad(loss)(net)
        optimizer.step(grads)
        return value, [jnp.abs(grads[name]).sum() for name, _ in net.named_parameters()]

    results = [step(net, optimizer) for _ in range(steps)]
    # After a step no parameter is left out: neither a block that began at zero, nor what stands behind it.
    assert [name for (name, _), size in zip(net.named_parameters(), results[-1][1]) if not size > 0] == []
    return [float(value) for value, _ in results]


def test_a_unet_learns() -> None:
    """All of it: what is deep in the encoder reaches the result as well as what is not."""
    net = models.UNet(models.VGG([[4], [8]], batch_norm=True, num_classes=0), num_classes=1, decoder_channels=[8, 4])
    x = jnp.asarray(images(16), jnp.float32)
    target = (x[:, :1] > 0).astype(jnp.float32)
    found = losses_of_training(net, lambda net: F.binary_cross_entropy_with_logits(net(x), target), 12)
    assert found[-1] < 0.9 * found[0]


def vae() -> models.ConvVAE:
    return models.ConvVAE(image_size=8, in_channels=1, latent=2, channels=[4, 8])


def test_an_autoencoder_learns() -> None:
    x = F.sigmoid(4 * jnp.asarray(images(8, channels=1, count=8), jnp.float32))
    found = losses_of_training(vae(), lambda net: models.vae_loss(*net(x), images=x), 30)
    assert found[-1] < 0.95 * found[0]


def test_an_autoencoder_draws_in_training_alone() -> None:
    net = vae().double()
    x = jnp.asarray(images(8, channels=1))
    compiled = fb.jit(lambda net, x: net(x)[0])
    net.eval()
    assert (compiled(net, x) == compiled(net, x)).all()
    net.train()
    fb.manual_seed(1)
    first = compiled(net, x)
    assert not jnp.allclose(first, compiled(net, x))
    fb.manual_seed(1)
    np.testing.assert_allclose(compiled(net, x), first, rtol=1e-9)


def test_the_loss_of_an_autoencoder_against_its_formula() -> None:
    rng = np.random.default_rng(0)
    logits, x = rng.standard_normal((3, 1, 4, 4)), rng.uniform(size=(3, 1, 4, 4))
    mean, log_variance = rng.standard_normal((2, 3, 5))
    p = 1 / (1 + np.exp(-logits))
    pixels = -(x * np.log(p) + (1 - x) * np.log(1 - p)).sum()
    # The divergence of two normal distributions, of deviations s and 1, is log(1 / s) + (s² + m²) / 2 - 1 / 2.
    s = np.exp(log_variance / 2)
    divergence = (-np.log(s) + (s**2 + mean**2) / 2 - 0.5).sum()
    found = models.vae_loss(*map(jnp.asarray, (logits, mean, log_variance, x)), beta=0.5)
    np.testing.assert_allclose(found, (pixels + 0.5 * divergence) / 3, rtol=1e-9)


def diffusion(**sizes: Any) -> models.DiffusionUNet:
    small = {"width": 8, "multipliers": [1, 2], "blocks": 1, "attention": [1], "groups": 4, "heads": 2}
    return models.DiffusionUNet(1, **{**small, **sizes})


def test_a_diffusion_unet_begins_with_zeros_and_learns_the_noise() -> None:
    net, x = diffusion(attention=[]), jnp.asarray(images(8, channels=1, count=4), jnp.float32)
    time = jnp.array([0, 10, 100, 999])
    call = fb.jit(lambda net, x, time: net(x, time))
    assert (call(net, x, time) == 0).all()
    found = losses_of_training(net, lambda net: F.mse_loss(net(x, time), x), 25)
    assert found[-1] < 0.7 * found[0]
    assert not jnp.allclose(call(net, x, time), call(net, x, time + 1)), "the time matters"


def test_names_of_a_diffusion_unet_are_those_that_its_docstring_tells() -> None:
    names = {name.rpartition(".")[0] for name, _ in diffusion().named_parameters()}
    assert {"time.0", "time.2", "start", "down.0.block.norm1", "down.1.resize", "down.1.attention.norm"} <= names
    assert {
        "middle.0.attention.attention.out_proj",
        "middle.1.block.time",
        "up.0.block.shortcut",
        "norm",
        "end",
    } <= names
    assert not any(name.startswith(("down.0.attention", "up.1.attention", "up.0.resize")) for name in names)


@pytest.mark.parametrize("sizes", [{"multipliers": [1, 2, 2], "blocks": 2}, {"out_channels": 2}, {"multipliers": [1]}])
def test_sizes_of_a_diffusion_unet(sizes: dict[str, Any]) -> None:
    x, time = jnp.zeros((2, 1, 8, 12), jnp.float32), jnp.arange(2)
    shape = fb.eval_shape(lambda net, x, time: net(x, time), diffusion(**sizes), x, time).shape
    assert shape == (2, sizes.get("out_channels", 1), 8, 12)


def test_mistakes_of_shape() -> None:
    with pytest.raises(fb.ShapeError, match="multiples of 2"):
        diffusion()(jnp.zeros((1, 1, 7, 8)), jnp.zeros(1))
    with pytest.raises(fb.ShapeError, match=r"time \(N,\)"):
        diffusion()(jnp.zeros((1, 1, 8, 8)), jnp.zeros(2))
    with pytest.raises(fb.ShapeError, match=r"expected input \(N, 1, 8, 8\)"):
        vae()(jnp.zeros((1, 3, 8, 8)))
    with pytest.raises(fb.ShapeError, match=r"expected input \(N, 3, 32, 32\)"):
        ENCODERS["vit"]()(jnp.zeros((1, 3, 16, 16)))
    with pytest.raises(ValueError, match="multiple of 8"):
        models.ConvVAE(image_size=12)
    with pytest.raises(ValueError, match="multiple of the patch size"):
        models.create("vit_b_16", image_size=30)
    with pytest.raises(TypeError, match=r"expected img_size to be an int.*got \(64, 96\)"):
        models.create("vit_tiny_patch16_224", img_size=(64, 96))
    with pytest.raises(TypeError, match=r"expected patch_size to be an int.*got \(16, 8\)"):
        models.create("vit_tiny_patch16_224", patch_size=(16, 8))
    with pytest.raises(ValueError, match="Bottleneck"):
        models.ResNet(models.BasicBlock, [1, 1, 1, 1], groups=2)


def test_stochastic_depth_drops_whole_instances_in_training() -> None:
    layer, x = _vision.StochasticDepth(0.25), jnp.ones((400, 2, 3), jnp.float32)
    out = layer(x).reshape(400, -1)  # (N, 2, 3) -> (N, 6)
    assert ((out == out[:, :1]).all(axis=1)).all()
    assert set(np.unique(out)) == {np.float32(0), np.float32(1 / 0.75)}
    assert 0.15 < (out[:, 0] == 0).mean() < 0.35
    assert (layer.eval()(x) == x).all()


@pytest.mark.parametrize(
    ("net", "rates"),
    [
        (lambda: models.ConvNeXt([1, 2], [4, 4], stochastic_depth_prob=0.5, num_classes=2), [0, 0.25, 0.5]),
        (lambda: models.TimmVisionTransformer(16, 8, 8, 3, 2, drop_path_rate=0.5), [0, 0, 0.25, 0.25, 0.5, 0.5]),
    ],
)
def test_blocks_are_left_out_more_and_more(net: Callable[[], nn.Module], rates: list[float]) -> None:
    found = [module.p for module in net().modules() if isinstance(module, _vision.StochasticDepth)]
    assert found == pytest.approx(rates)


def dropouts(net: nn.Module) -> dict[str, float]:
    return {name: module.p for name, module in net.named_modules() if isinstance(module, nn.Dropout)}


def test_where_the_dropouts_of_a_vision_transformer_are() -> None:
    net = models.VisionTransformer(16, 8, 1, 2, 8, 16, dropout=0.1, attention_dropout=0.2)
    block = "encoder.layers.encoder_layer_0"
    where = ["encoder.dropout", f"{block}.dropout", f"{block}.mlp.2", f"{block}.mlp.4"]
    assert dropouts(net) == dict.fromkeys(where, 0.1)
    assert net.get_submodule(f"{block}.self_attention").dropout == 0.2


def test_where_the_dropouts_of_a_vision_transformer_of_timm_are() -> None:
    net = models.TimmVisionTransformer(16, 8, 8, 1, 2, 4, 3, 0.1, 0.2, 0.3, 0.4)
    inside = {"attn.attn_drop": 0.4, "attn.proj_drop": 0.3, "mlp.drop1": 0.3, "mlp.drop2": 0.3}
    assert dropouts(net) == {"pos_drop": 0.2, **{f"blocks.0.{k}": p for k, p in inside.items()}, "head_drop": 0.1}


@pytest.mark.parametrize("rate", ["attn_drop_rate", "drop_path_rate"])
def test_a_vision_transformer_drops_in_training_alone(rate: str) -> None:
    net = models.TimmVisionTransformer(16, 8, 8, 2, 2, num_classes=0, **{rate: 0.5})
    call, x = fb.jit(lambda net, x: net(x)), jnp.asarray(images(16, count=8), jnp.float32)
    assert not jnp.allclose(call(net, x), call(net, x), rtol=1e-12)
    net.eval()
    assert (call(net, x) == call(net, x)).all()
