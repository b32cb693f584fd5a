"""The networks whose design is this package's own against the same ones in PyTorch: names, outputs, training."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

import flambeau as fb
from flambeau import models
from flambeau.nn import functional, init
from tests.models.goldens import filling, images

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional


def norm_relu(conv: Any) -> Any:
    return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU(inplace=True))


class BasicBlock(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.downsample = nn.Identity()
        if before != after or stride != 1:
            self.downsample = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Any) -> Any:
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.downsample(x))


class ResNet(nn.Module):
    """The features of a ResNet at the strides 2, 4, 8, 16 and 32."""

    def __init__(self, layers: Sequence[int], width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = self.layer(width, width, layers[0], 1)
        self.layer2 = self.layer(width, 2 * width, layers[1], 2)
        self.layer3 = self.layer(2 * width, 4 * width, layers[2], 2)
        self.layer4 = self.layer(4 * width, 8 * width, layers[3], 2)

    def layer(self, before: int, after: int, count: int, stride: int) -> Any:
        return nn.Sequential(
            BasicBlock(before, after, stride), *(BasicBlock(after, after, 1) for _ in range(count - 1))
        )

    def forward(self, x: Any) -> list[Any]:
        x2 = F.relu(self.bn1(self.conv1(x)))
        x4 = self.layer1(F.max_pool2d(x2, 3, 2, 1))
        x8 = self.layer2(x4)
        x16 = self.layer3(x8)
        return [x2, x4, x8, x16, self.layer4(x16)]


def decoder_block(before: int, after: int) -> Any:
    conv1, conv2 = (norm_relu(nn.Conv2d(channels, after, 3, 1, 1, bias=False)) for channels in (before, after))
    return nn.Sequential(OrderedDict(conv1=conv1, conv2=conv2))


class UNet(nn.Module):
    def __init__(self, layers: Sequence[int], width: int, num_classes: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.encoder = ResNet(layers, width)
        befores, skips = [8 * width, *channels], [4 * width, 2 * width, width, width, 0]
        self.decoder = nn.ModuleList(decoder_block(a + skip, b) for a, skip, b in zip(befores, skips, channels))
        self.head = nn.Conv2d(channels[-1], num_classes, 1)

    def forward(self, x: Any) -> Any:
        x2, x4, x8, x16, out = self.encoder(x)
        for skip, block in zip([x16, x8, x4, x2], self.decoder):
            out = block(torch.cat([F.interpolate(out, skip.shape[2:], mode="nearest"), skip], 1))
        return self.head(self.decoder[4](F.interpolate(out, x.shape[2:], mode="nearest")))


class ConvVAE(nn.Module):
    def __init__(self, image_size: int, in_channels: int, latent: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.code = nn.Unflatten(1, (channels[-1], image_size >> len(channels), image_size >> len(channels)))
        down, up = pairwise([in_channels, *channels]), pairwise([*channels[::-1], channels[0]])
        flat = channels[-1] * (image_size >> len(channels)) ** 2
        self.encoder = nn.Sequential(*(norm_relu(nn.Conv2d(a, b, 3, 2, 1)) for a, b in down), nn.Flatten())
        self.mean = nn.Linear(flat, latent)
        self.log_variance = nn.Linear(flat, latent)
        self.start = nn.Linear(latent, flat)
        self.decoder = nn.Sequential(*(norm_relu(nn.ConvTranspose2d(a, b, 4, 2, 1)) for a, b in up))
        self.decoder.append(nn.Conv2d(channels[0], in_channels, 3, 1, 1))

    def forward(self, x: Any) -> tuple[Any, Any, Any]:
        h = self.encoder(x)
        z = mean = self.mean(h)
        log_variance = self.log_variance(h)
        if self.training:
            z = mean + torch.randn_like(mean) * log_variance.exp().sqrt()
        return self.decoder(self.code(self.start(z))), mean, log_variance


class ResidualBlock(nn.Module):
    def __init__(self, before: int, after: int, time: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, before)
        self.conv1 = nn.Conv2d(before, after, 3, 1, 1)
        self.time = nn.Linear(time, after)
        self.norm2 = nn.GroupNorm(groups, after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1)
        self.shortcut = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: Any, time: Any) -> Any:
        h = self.conv1(F.silu(self.norm1(x))) + self.time(F.silu(time)).unsqueeze(-1).unsqueeze(-1)
        return self.conv2(F.silu(self.norm2(h))) + self.shortcut(x)


class PixelAttention(nn.Module):
    def __init__(self, channels: int, groups: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels)
        self.attention = nn.MultiheadAttention(channels, heads, batch_first=True)

    def forward(self, x: Any) -> Any:
        h = self.norm(x).flatten(2).transpose(1, 2)
        return x + self.attention(h, h, h)[0].transpose(1, 2).unflatten(2, x.shape[2:])


class DiffusionUNet(nn.Module):
    def __init__(
        self, in_channels: int, out_channels: int, width: int, multipliers: Sequence[int], blocks: int,
        attention: Sequence[int], groups: int, heads: int,
    ) -> None:  # fmt: skip
        super().__init__()

        def step(before: int, after: int, attends: bool, resize: Any = None) -> Any:
            block = ResidualBlock(before, after, 4 * width, groups)
            last = PixelAttention(after, groups, heads) if attends else nn.Identity()
            return nn.ModuleDict({"resize": resize or nn.Identity(), "block": block, "attention": last})

        self.waves = width // 2
        self.time = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width))
        self.start = nn.Conv2d(in_channels, width, 3, 1, 1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        widths = [(level, width * multiplier) for level, multiplier in enumerate(multipliers) for _ in range(blocks)]
        level, now = 0, width
        for here, after in widths:
            resize = None if here == level else nn.Conv2d(now, now, 3, 2, 1)
            self.down.append(step(now, after, here in attention, resize))
            level, now = here, after
        self.middle = nn.ModuleList([step(now, now, True), step(now, now, False)])
        for here, after in reversed(widths):
            convolution = nn.Conv2d(now, now, 3, 1, 1)
            resize = None if here == level else nn.Sequential(nn.Upsample(scale_factor=2), convolution)
            self.up.append(step(now + after, after, here in attention, resize))
            level, now = here, after
        self.norm = nn.GroupNorm(groups, now)
        self.end = nn.Conv2d(now, out_channels, 3, 1, 1)

    def forward(self, x: Any, time: Any) -> Any:
        angles = time[:, None] / 10000 ** (torch.arange(self.waves, dtype=x.dtype) / self.waves)
        time = self.time(torch.cat([angles.cos(), angles.sin()], 1))
        x, skips = self.start(x), []
        for step in (*self.down, *self.middle):
            x = step["attention"](step["block"](step["resize"](x), time))
            skips.append(x)
        for step, skip in zip(self.up, reversed(skips[: len(self.down)])):
            x = torch.cat([step["resize"](x), skip], 1)
            x = step["attention"](step["block"](x, time))
        return self.end(F.silu(self.norm(x)))


def our_unet(layers: Sequence[int], width: int, num_classes: int, channels: Sequence[int]) -> models.UNet:
    encoder = models.ResNet(models.BasicBlock, layers, num_classes=0, width=width)
    return models.UNet(encoder, num_classes, channels)


def their_vae_loss(logits: Any, mean: Any, log_variance: Any, target: Any) -> Any:
    code, normal = (torch.distributions.Normal(*each) for each in ((mean, log_variance.exp().sqrt()), (0.0, 1.0)))
    divergence = torch.distributions.kl_divergence(code, normal).sum()
    return (F.binary_cross_entropy_with_logits(logits, target, reduction="sum") + divergence) / len(target)


class Twins(NamedTuple):
    """Networks and losses of what comes out and a target, ours and PyTorch's; sizes for both; inputs and a target."""

    networks: tuple[Callable[..., Any], Callable[..., Any]]
    losses: tuple[Callable[..., Any], Callable[..., Any]]
    small: dict[str, Any]
    standard: dict[str, Any]
    batch: tuple[np.ndarray, ...]


BRIGHT = np.random.default_rng(0).uniform(size=(4, 2, 16, 16))
# By the name in `models.create`. Height and width of the images differ, and are odd, where they may.
TWINS = {
    "unet": Twins(
        (our_unet, UNet),
        (functional.cross_entropy, F.cross_entropy),
        {"layers": [1, 1, 1, 1], "width": 8, "num_classes": 3, "channels": [16, 12, 8, 6, 4]},
        {"layers": [3, 4, 6, 3], "width": 64, "num_classes": 1, "channels": [256, 128, 64, 32, 16]},
        (images(67)[..., :45], np.random.default_rng(0).integers(3, size=(2, 67, 45))),
    ),
    "conv_vae": Twins(
        (models.ConvVAE, ConvVAE),
        (models.vae_loss, their_vae_loss),
        {"image_size": 16, "in_channels": 2, "latent": 3, "channels": [4, 6]},
        {"image_size": 32, "in_channels": 3, "latent": 64, "channels": [32, 64, 128]},
        (BRIGHT, BRIGHT),
    ),
    "diffusion_unet": Twins(
        (models.DiffusionUNet, DiffusionUNet),
        (functional.mse_loss, F.mse_loss),
        {"in_channels": 1, "out_channels": 2, "width": 8, "multipliers": [2, 3], "blocks": 2, "attention": [1],
         "groups": 4, "heads": 2},
        {"in_channels": 3, "out_channels": 3, "width": 64, "multipliers": [1, 2, 4], "blocks": 2, "attention": [2],
         "groups": 8, "heads": 4},
        (images(12, channels=1)[..., :8], np.array([3, 999]), images(12, channels=2)[..., :8]),
    ),
}  # fmt: skip
every_network = pytest.mark.parametrize("name", TWINS)


def specs(net: Any) -> list[tuple[str, tuple[int, ...], str]]:
    state = net.state_dict(keep_vars=True).items()
    return [(key, tuple(value.shape), str(value.dtype).removeprefix("torch.")) for key, value in state]


def pair(name: str) -> tuple[Any, Any]:
    """Both networks, small, with the same numbers; not with those they begin with, many of which are zero."""
    ours, theirs = (make(**TWINS[name].small).double() for make in TWINS[name].networks)
    ours.load_state_dict({spec[0]: jnp.asarray(filling(*spec)) for spec in specs(ours)})
    theirs.load_state_dict({key: torch.tensor(np.asarray(value)) for key, value in ours.state_dict().items()})
    return ours, theirs


def several(out: Any) -> tuple[Any, ...]:
    return out if isinstance(out, tuple) else (out,)


def assert_close(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """The bias of a convolution before a batch norm has no gradient but rounding errors, of what is largest."""
    assert ours.keys() == theirs.keys()
    expected = {key: value.detach().numpy() for key, value in theirs.items()}
    atol = 1e-9 * max(np.abs(value).max() for value in expected.values())
    for key, value in expected.items():
        np.testing.assert_allclose(ours[key], value, rtol=1e-6, atol=atol, err_msg=key, strict=True)


@every_network
def test_names_order_shapes_and_dtypes(name: str) -> None:
    ours, theirs = (make(**TWINS[name].small).double() for make in TWINS[name].networks)
    assert specs(ours) == specs(theirs)
    with fb.init_empty(), torch.device("meta"):
        assert specs(models.create(name)) == specs(TWINS[name].networks[1](**TWINS[name].standard))


@every_network
def test_outputs(name: str) -> None:
    ours, theirs = (net.eval() for net in pair(name))
    inputs = TWINS[name].batch[:-1]
    found = several(fb.jit(lambda net, *inputs: net(*inputs))(ours, *map(jnp.asarray, inputs)))
    for a, b in zip(found, several(theirs(*map(torch.tensor, inputs))), strict=True):
        np.testing.assert_allclose(a, b.detach().numpy(), rtol=1e-6, atol=1e-9, strict=True)


@every_network
def test_two_steps_of_training(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses, gradients, and the state afterwards; momentum counts from the second step on."""
    ours, theirs = pair(name)
    our_loss, their_loss = TWINS[name].losses

    @fb.jit
    def step(net: Any, optimizer: Any, target: Any, *inputs: Any) -> Any:
        value, grads = fb.value_and_grad(lambda net: our_loss(*several(net(*inputs)), target))(net)
        optimizer.step(grads)
        return value, {key: grads[key] for key, _ in net.named_parameters()}

    *inputs, target = map(jnp.asarray, TWINS[name].batch)
    optimizer = fb.optim.SGD(ours.parameters(), lr=0.01, momentum=0.9)
    fb.manual_seed(1)
    found = [step(ours, optimizer, target, *inputs) for _ in range(2)]

    # The twin draws once more what ours drew.
    fb.manual_seed(1)
    monkeypatch.setattr(torch, "randn_like", lambda x: torch.tensor(np.asarray(init.normal_(jnp.zeros(x.shape)))))
    *inputs, target = map(torch.tensor, TWINS[name].batch)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.01, momentum=0.9)
    for value, grads in found:
        optimizer.zero_grad()
        loss = their_loss(*several(theirs(*inputs)), target)
        loss.backward()
        np.testing.assert_allclose(value, loss.item(), rtol=1e-6)
        assert_close(grads, {key: parameter.grad for key, parameter in theirs.named_parameters()})
        optimizer.step()
    assert_close(ours.state_dict(), theirs.state_dict())
