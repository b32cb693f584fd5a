"""Every network of "PyTorch: how and when to use Module, Sequential, ModuleList and ModuleDict", written with flambeau.

The article (https://github.com/FrancescoSaverioZuppichini/Pytorch-how-and-when-to-use-Module-Sequential-ModuleList-and-ModuleDict)
takes one classifier of small images and makes it shorter, step by step. Each step is a function here, so that eight classes
can have one name. Swap two imports, and this file's networks run on PyTorch: the tests do that, and compare.

    python examples/article.py              # all networks at the article's 28x28: half a minute
    python examples/article.py --size 8     # the same for smaller images: a few seconds
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

import flambeau as fb
from flambeau import nn
from flambeau.nn import functional as F


@dataclass(frozen=True)
class Step:
    """A step of the article: what it is about, the network for images of a size, and the shape of an input for it."""

    title: str
    build: Callable[[int], nn.Module]
    input_shape: Callable[[int], tuple[int, ...]]


STEPS: list[Step] = []
MISTAKES: dict[str, Callable[[], Any]] = {}


def images(size: int) -> tuple[int, ...]:
    return (4, 1, size, size)


def step(
    title: str, input_shape: Callable[[int], tuple[int, ...]] = images
) -> Callable[..., Callable[[int], nn.Module]]:
    """Puts a function that builds a network into the list of steps."""

    def put(build: Callable[[int], nn.Module]) -> Callable[[int], nn.Module]:
        STEPS.append(Step(title, build, input_shape))
        return build

    return put


def mistake(title: str) -> Callable[..., Callable[[], Any]]:
    """Puts a function that makes a mistake into the list of mistakes."""

    def put(make: Callable[[], Any]) -> Callable[[], Any]:
        MISTAKES[title] = make
        return make

    return put


# -- Module: a class with layers as attributes -----------------------------------------------------------------------------


@step("Module: each layer by its own name")
def plain(size: int) -> nn.Module:
    class MyCNNClassifier(nn.Module):
        def __init__(self, in_c, n_classes):
            super().__init__()
            self.conv1 = nn.Conv2d(in_c, 32, kernel_size=3, stride=1, padding=1)
            self.bn1 = nn.BatchNorm2d(32)
            self.conv2 = nn.Conv2d(32, 64, kernel_size=3, stride=1, padding=1)
            self.bn2 = nn.BatchNorm2d(64)
            self.fc1 = nn.Linear(64 * size * size, 1024)
            self.fc2 = nn.Linear(1024, n_classes)

        def forward(self, x):
            x = F.relu(self.bn1(self.conv1(x)))
            x = F.relu(self.bn2(self.conv2(x)))
            x = x.reshape(len(x), -1)  # (N, 64, H, W) -> (N, 64*H*W)
            return self.fc2(F.sigmoid(self.fc1(x)))

    return MyCNNClassifier(1, 10)


# -- Sequential: layers that always follow each other ----------------------------------------------------------------------


@step("Sequential: layers that belong together")
def sequential(size: int) -> nn.Module:
    class MyCNNClassifier(nn.Module):
        def __init__(self, in_c, n_classes):
            super().__init__()
            self.conv_block1 = nn.Sequential(
                nn.Conv2d(in_c, 32, kernel_size=3, stride=1, padding=1), nn.BatchNorm2d(32), nn.ReLU()
            )
            self.conv_block2 = nn.Sequential(
                nn.Conv2d(32, 64, kernel_size=3, stride=1, padding=1), nn.BatchNorm2d(64), nn.ReLU()
            )
            self.decoder = nn.Sequential(nn.Linear(64 * size * size, 1024), nn.Sigmoid(), nn.Linear(1024, n_classes))

        def forward(self, x):
            x = self.conv_block2(self.conv_block1(x))
            return self.decoder(x.reshape(len(x), -1))  # (N, 64, H, W) -> (N, 64*H*W)

    return MyCNNClassifier(1, 10)


def conv_bn_relu(in_f, out_f, *args, **kwargs):
    """The block that both halves of the encoder share. The article calls it `conv_block`; ours of that name is further down."""
    return nn.Sequential(nn.Conv2d(in_f, out_f, *args, **kwargs), nn.BatchNorm2d(out_f), nn.ReLU())


@step("A function that returns a block")
def block_function(size: int) -> nn.Module:
    class MyCNNClassifier(nn.Module):
        def __init__(self, in_c, n_classes):
            super().__init__()
            self.conv_block1 = conv_bn_relu(in_c, 32, kernel_size=3, padding=1)
            self.conv_block2 = conv_bn_relu(32, 64, kernel_size=3, padding=1)
            self.decoder = nn.Sequential(nn.Linear(64 * size * size, 1024), nn.Sigmoid(), nn.Linear(1024, n_classes))

        def forward(self, x):
            x = self.conv_block2(self.conv_block1(x))
            return self.decoder(x.reshape(len(x), -1))  # (N, 64, H, W) -> (N, 64*H*W)

    return MyCNNClassifier(1, 10)


@step("Sequential of Sequentials: an encoder and a decoder")
def merged_blocks(size: int) -> nn.Module:
    class MyCNNClassifier(nn.Module):
        def __init__(self, in_c, n_classes):
            super().__init__()
            self.encoder = nn.Sequential(
                conv_bn_relu(in_c, 32, kernel_size=3, padding=1), conv_bn_relu(32, 64, kernel_size=3, padding=1)
            )
            self.decoder = nn.Sequential(nn.Linear(64 * size * size, 1024), nn.Sigmoid(), nn.Linear(1024, n_classes))

        def forward(self, x):
            x = self.encoder(x)
            return self.decoder(x.reshape(len(x), -1))  # (N, 64, H, W) -> (N, 64*H*W)

    return MyCNNClassifier(1, 10)


# -- Sequential from a list: as many layers as there are sizes -------------------------------------------------------------


@step("An encoder from a list of sizes")
def encoder_from_list(size: int) -> nn.Module:
    class MyCNNClassifier(nn.Module):
        def __init__(self, in_c, n_classes):
            super().__init__()
            self.enc_sizes = [in_c, 32, 64]
            pairs = zip(self.enc_sizes, self.enc_sizes[1:])
            self.encoder = nn.Sequential(*[conv_bn_relu(i, o, kernel_size=3, padding=1) for i, o in pairs])
            self.decoder = nn.Sequential(nn.Linear(64 * size * size, 1024), nn.Sigmoid(), nn.Linear(1024, n_classes))

        def forward(self, x):
            x = self.encoder(x)
            return self.decoder(x.reshape(len(x), -1))  # (N, 64, H, W) -> (N, 64*H*W)

    return MyCNNClassifier(1, 10)


@step("The list of sizes as an argument")
def sizes_as_argument(size: int) -> nn.Module:
    class MyCNNClassifier(nn.Module):
        def __init__(self, in_c, enc_sizes, n_classes):
            super().__init__()
            self.enc_sizes = [in_c, *enc_sizes]
            pairs = zip(self.enc_sizes, self.enc_sizes[1:])
            self.encoder = nn.Sequential(*[conv_bn_relu(i, o, kernel_size=3, padding=1) for i, o in pairs])
            # The article leaves 64 here, which does not fit what its own three sizes make.
            flat = self.enc_sizes[-1] * size * size
            self.decoder = nn.Sequential(nn.Linear(flat, 1024), nn.Sigmoid(), nn.Linear(1024, n_classes))

        def forward(self, x):
            x = self.encoder(x)
            return self.decoder(x.reshape(len(x), -1))  # (N, C, H, W) -> (N, C*H*W)

    return MyCNNClassifier(1, [32, 64, 128], 10)


def dec_block(in_f, out_f):
    return nn.Sequential(nn.Linear(in_f, out_f), nn.Sigmoid())


@step("The decoder from a list, too")
def decoder_from_list(size: int) -> nn.Module:
    class MyCNNClassifier(nn.Module):
        def __init__(self, in_c, enc_sizes, dec_sizes, n_classes):
            super().__init__()
            self.enc_sizes = [in_c, *enc_sizes]
            self.dec_sizes = [self.enc_sizes[-1] * size * size, *dec_sizes]
            pairs = zip(self.enc_sizes, self.enc_sizes[1:])
            self.encoder = nn.Sequential(*[conv_bn_relu(i, o, kernel_size=3, padding=1) for i, o in pairs])
            pairs = zip(self.dec_sizes, self.dec_sizes[1:])
            self.decoder = nn.Sequential(*[dec_block(i, o) for i, o in pairs])
            self.last = nn.Linear(self.dec_sizes[-1], n_classes)  # on its own, for no sigmoid follows it

        def forward(self, x):
            x = self.encoder(x)
            x = self.decoder(x.reshape(len(x), -1))  # (N, C, H, W) -> (N, C*H*W)
            return self.last(x)  # the article makes this layer and then forgets it

    return MyCNNClassifier(1, [32, 64], [1024, 512], 10)


@step("Two modules, MyEncoder and MyDecoder")
def encoder_and_decoder(size: int) -> nn.Module:
    class MyEncoder(nn.Module):
        def __init__(self, enc_sizes):
            super().__init__()
            pairs = zip(enc_sizes, enc_sizes[1:])
            self.conv_blocks = nn.Sequential(*[conv_bn_relu(i, o, kernel_size=3, padding=1) for i, o in pairs])

        def forward(self, x):
            return self.conv_blocks(x)

    class MyCNNClassifier(nn.Module):
        def __init__(self, in_c, enc_sizes, dec_sizes, n_classes):
            super().__init__()
            self.enc_sizes = [in_c, *enc_sizes]
            self.dec_sizes = [self.enc_sizes[-1] * size * size, *dec_sizes]
            self.encoder = MyEncoder(self.enc_sizes)
            self.decoder = MyDecoder(self.dec_sizes, n_classes)

        def forward(self, x):
            x = self.encoder(x)
            return self.decoder(x.reshape(len(x), -1))  # (N, C, H, W) -> (N, C*H*W)

    return MyCNNClassifier(1, [32, 64], [1024, 512], 10)


# -- ModuleList: layers to go over, and ModuleDict: layers to choose from ---------------------------------------------------


@step("ModuleList: look at what each layer gives", input_shape=lambda size: (4, 1))
def module_list(size: int) -> nn.Module:
    class MyModule(nn.Module):
        def __init__(self, sizes):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(i, o) for i, o in zip(sizes, sizes[1:])])
            self.trace = []  # a plain list, and still there with all its arrays after a compiled call

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
                self.trace.append(x)
            return x

    return MyModule([1, 16, 32])


def conv_block(in_f, out_f, activation="relu", *args, **kwargs):
    activations = nn.ModuleDict([["lrelu", nn.LeakyReLU()], ["relu", nn.ReLU()]])
    return nn.Sequential(nn.Conv2d(in_f, out_f, *args, **kwargs), nn.BatchNorm2d(out_f), activations[activation])


@step("ModuleDict: choose lrelu")
def choose_lrelu(size: int) -> nn.Module:
    return conv_block(1, 32, "lrelu", kernel_size=3, padding=1)


@step("ModuleDict: choose relu")
def choose_relu(size: int) -> nn.Module:
    return conv_block(1, 32, "relu", kernel_size=3, padding=1)


# -- All of it together -----------------------------------------------------------------------------------------------------


class MyEncoder(nn.Module):
    def __init__(self, enc_sizes, *args, **kwargs):
        super().__init__()
        pairs = zip(enc_sizes, enc_sizes[1:])
        self.conv_blocks = nn.Sequential(
            *[conv_block(i, o, *args, kernel_size=3, padding=1, **kwargs) for i, o in pairs]
        )

    def forward(self, x):
        return self.conv_blocks(x)


class MyDecoder(nn.Module):
    def __init__(self, dec_sizes, n_classes):
        super().__init__()
        self.dec_blocks = nn.Sequential(*[dec_block(i, o) for i, o in zip(dec_sizes, dec_sizes[1:])])
        self.last = nn.Linear(dec_sizes[-1], n_classes)

    def forward(self, x):
        return self.last(self.dec_blocks(x))


class MyCNNClassifier(nn.Module):
    def __init__(self, in_c, enc_sizes, dec_sizes, n_classes, activation="relu", size=28):
        super().__init__()
        self.enc_sizes = [in_c, *enc_sizes]
        self.dec_sizes = [self.enc_sizes[-1] * size * size, *dec_sizes]
        self.encoder = MyEncoder(self.enc_sizes, activation=activation)
        self.decoder = MyDecoder(self.dec_sizes, n_classes)

    def forward(self, x):
        x = self.encoder(x)
        return self.decoder(x.reshape(len(x), -1))  # (N, C, H, W) -> (N, C*H*W)


@step("The final implementation")
def final(size: int) -> nn.Module:
    return MyCNNClassifier(1, [32, 64], [1024, 512], 10, activation="lrelu", size=size)


# -- The article's mistakes, and what flambeau says to them -----------------------------------------------------------------


@mistake("forward indented into __init__")
def nested_forward() -> Any:
    class MyEncoder(nn.Module):
        def __init__(self, enc_sizes):
            super().__init__()
            self.conv_blocks = nn.Sequential(*[conv_bn_relu(i, o, 3) for i, o in zip(enc_sizes, enc_sizes[1:])])

            def forward(self, x):
                return self.conv_blocks(x)

    return MyEncoder([1, 32, 64])(jnp.ones((4, 1, 8, 8), jnp.float32))


@mistake("modules in a plain Python list")
def plain_list() -> Any:
    class MyModule(nn.Module):
        def __init__(self, sizes):
            super().__init__()
            self.layers = [nn.Linear(i, o) for i, o in zip(sizes, sizes[1:])]

    return list(MyModule([1, 16, 32]).parameters())


@mistake("a decoder that expects another number of channels than the encoder gives")
def wrong_decoder() -> Any:
    net = MyCNNClassifier(1, [32, 64], [16], 10, size=8)
    net.decoder = MyDecoder([32 * 8 * 8, 16], 10)
    return net(jnp.ones((4, 1, 8, 8), jnp.float32))


@mistake("a module called without its input")
def missing_input() -> Any:
    return dec_block(4, 2)()


@mistake("a misspelt container")
def misspelt_container() -> Any:
    return nn.ModuleLIst  # pyright: ignore[reportAttributeAccessIssue]


@mistake("a misspelt layer")
def misspelt_layer() -> Any:
    return nn.batchNorm2d(32)  # pyright: ignore[reportAttributeAccessIssue]


@mistake("a misspelt argument")
def misspelt_argument() -> Any:
    return nn.Conv2d(1, 32, kernel_szie=3)  # pyright: ignore[reportCallIssue]


# -- Walking through --------------------------------------------------------------------------------------------------------


def answer_to(make: Callable[[], Any]) -> str:
    """What flambeau says to a mistake."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", fb.FlambeauWarning)  # so that a warning is caught as an error is
        try:
            make()
        except Exception as said:
            return f"{type(said).__name__}: {said}"
    raise AssertionError(f"nothing was said to {make.__name__}")


def show(step: Step, size: int) -> None:
    """Prints a network, and what it makes of an input when it runs eagerly and when it runs compiled."""
    fb.manual_seed(0)
    net = step.build(size)
    x = jax.random.normal(jax.random.key(0), step.input_shape(size), jnp.float32)
    eager, compiled = net(x), fb.jit(net)(x)
    print(f"{net}\n\n{x.shape} -> eager {eager.shape}, compiled {compiled.shape}")
    if hasattr(net, "trace"):
        print("trace:", *[kept.shape for kept in net.trace])


def walk_through(size: int) -> None:
    for number, each in enumerate(STEPS, 1):
        print(f"{number}. {each.title}\n")
        show(each, size)
        print()
    print("Mistakes that the article makes or warns of, and the answers:\n")
    for title, make in MISTAKES.items():
        print(f"- {title}\n  {answer_to(make)}\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The networks of the article, step by step.")
    parser.add_argument("--size", type=int, default=28, help="height and width of the images (default: 28)")
    walk_through(parser.parse_args().size)
