"""The networks for images of torchvision and timm: small ones to run, and all standard ones to name their tensors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import timm
import torchvision.models as tv
from torchvision.models import convnext, efficientnet, mobilenetv3, resnet, vgg

STANDARD = [
    "resnet18 resnet34 resnet50 resnet101 resnet152 resnext50_32x4d resnext101_32x8d resnext101_64x4d",
    "wide_resnet50_2 wide_resnet101_2",
    "vgg11 vgg13 vgg16 vgg19 vgg11_bn vgg13_bn vgg16_bn vgg19_bn",
    "vit_b_16 vit_b_32 vit_l_16 vit_l_32 vit_h_14",
    "mobilenet_v3_small mobilenet_v3_large",
    *(f"efficientnet_b{i}" for i in range(8)),
    "convnext_tiny convnext_small convnext_base convnext_large",
]
TIMM = [
    "vit_tiny_patch16_224 vit_tiny_patch16_384 vit_small_patch8_224 vit_small_patch16_224 vit_small_patch16_384",
    "vit_small_patch32_224 vit_small_patch32_384 vit_base_patch8_224 vit_base_patch16_224 vit_base_patch16_384",
    "vit_base_patch32_224 vit_base_patch32_384 vit_large_patch14_224 vit_large_patch16_224 vit_large_patch16_384",
    "vit_large_patch32_224 vit_large_patch32_384 vit_huge_patch14_224",
]


def names() -> dict[str, Callable[[], Any]]:
    """Each standard network by name."""
    of_torchvision = {name: getattr(tv, name) for line in STANDARD for name in line.split()}
    # Of some names timm has weights without a last layer alone, and then builds none unless it is asked to.
    make = partial(timm.create_model, num_classes=1000)
    return of_torchvision | {name: partial(make, name) for line in TIMM for name in line.split()}


class NarrowResNet(resnet.ResNet):
    """torchvision's own with a fourth of the channels, which its constructor does not offer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, num_classes=5, **kwargs)
        self.fc = tv.resnet.nn.Linear(self.fc.in_features // 4, 5)

    @property
    def inplanes(self) -> int:
        return self.channels

    @inplanes.setter
    def inplanes(self, channels: int) -> None:
        self.channels = channels if hasattr(self, "channels") else channels // 4

    def _make_layer(self, block: Any, planes: int, *args: Any, **kwargs: Any) -> Any:
        return super()._make_layer(block, planes // 4, *args, **kwargs)


def small_vgg(batch_norm: bool) -> Any:
    net = vgg.VGG(vgg.make_layers([8, "M", 8, "M", 16, "M"], batch_norm=batch_norm), num_classes=5, dropout=0.0)
    # torchvision's classifier fits 512 channels alone, and is a hundred megabytes.
    net.classifier[0] = tv.vgg.nn.Linear(16 * 7 * 7, 32)
    net.classifier[3] = tv.vgg.nn.Linear(32, 32)
    net.classifier[6] = tv.vgg.nn.Linear(32, 5)
    for i in (0, 3, 6):
        tv.vgg.nn.init.normal_(net.classifier[i].weight, 0, 0.01)
        tv.vgg.nn.init.constant_(net.classifier[i].bias, 0)
    return net


def small_efficientnet() -> Any:
    setting, last_channel = efficientnet._efficientnet_conf("efficientnet_b0", width_mult=0.25, depth_mult=0.3)
    norm = partial(tv.efficientnet.nn.BatchNorm2d, eps=0.001, momentum=0.01)
    return efficientnet.EfficientNet(setting, 0.0, 0.0, num_classes=5, norm_layer=norm, last_channel=last_channel)


def mbconvs() -> Any:
    """The blocks of EfficientNet: with and without a wider middle, a stride, a shortcut."""
    sizes = [(1, 3, 1, 8, 8, 1), (6, 3, 2, 8, 16, 1), (6, 5, 1, 16, 16, 1)]
    norm = tv.efficientnet.nn.BatchNorm2d
    blocks = (efficientnet.MBConv(efficientnet.MBConvConfig(*size), 0.0, norm) for size in sizes)
    return tv.efficientnet.nn.Sequential(*blocks)


def small_mobilenet() -> Any:
    setting, last_channel = mobilenetv3._mobilenet_v3_conf("mobilenet_v3_small", width_mult=0.25)
    return mobilenetv3.MobileNetV3(setting, last_channel, num_classes=5, dropout=0.0)


def short_mobilenet() -> Any:
    sizes = [(16, 3, 16, 16, True, "RE", 2), (16, 3, 24, 24, False, "HS", 1), (24, 5, 32, 24, True, "HS", 1)]
    setting = [mobilenetv3.InvertedResidualConfig(*size, dilation=1, width_mult=0.5) for size in sizes]
    return mobilenetv3.MobileNetV3(setting, 16, num_classes=5, dropout=0.0)


def small_convnext() -> Any:
    setting = [convnext.CNBlockConfig(8, 16, 1), convnext.CNBlockConfig(16, None, 1)]
    return convnext.ConvNeXt(setting, num_classes=5)


def small_timm_vit() -> Any:
    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
    return timm.models.vision_transformer.VisionTransformer(**sizes, num_classes=5)


# By name: how to make the network, and size and channels of its images.
SMALL: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "resnet_basic": (partial(NarrowResNet, resnet.BasicBlock, [2, 1, 1, 1]), (48,)),
    "resnext_dilated": (
        partial(
            NarrowResNet,
            resnet.Bottleneck,
            [1, 1, 2, 1],
            groups=4,
            width_per_group=8,
            replace_stride_with_dilation=[False, True, True],
            zero_init_residual=True,
        ),
        (32,),
    ),
    "vgg": (partial(small_vgg, False), (32,)),
    "vgg_bn": (partial(small_vgg, True), (32,)),
    "vit": (partial(tv.VisionTransformer, 16, 8, 2, 3, 24, 48, num_classes=5), (16,)),
    "vit_timm": (small_timm_vit, (16,)),
    "mobilenet_v3_small": (small_mobilenet, (48,)),
    "mobilenet_short": (short_mobilenet, (16,)),
    "efficientnet": (small_efficientnet, (48,)),
    "mbconvs": (mbconvs, (8, 8)),
    "convnext": (small_convnext, (16,)),
    "cnblock": (partial(convnext.CNBlock, 8, 1e-6, 0.0), (4, 8)),
}
