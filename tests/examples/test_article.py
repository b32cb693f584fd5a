"""The networks of the article: each runs the same eagerly and compiled, and is what PyTorch makes of the same code."""

from __future__ import annotations

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flambeau as fb
from flambeau import nn
from tests.examples.loading import load

article = load("examples/article.py")
reprs = load("scripts/make_article_reprs.py")

# The article's 28x28 costs 51 million weights; the code is the same for every size.
SMALL = 6
each_step = pytest.mark.parametrize("step", article.STEPS, ids=lambda step: step.title)


def make(step: Any) -> tuple[nn.Module, jax.Array]:
    """A network and its input, always the same."""
    fb.manual_seed(7)
    return step.build(SMALL), jax.random.normal(jax.random.key(1), step.input_shape(SMALL), jnp.float32)


def state_of(net: nn.Module) -> dict[str, np.ndarray]:
    """Parameters, buffers, and the trace of a network that keeps one."""
    kept = {f"trace {place}": array for place, array in enumerate(getattr(net, "trace", []))}
    return {name: np.asarray(array) for name, array in {**net.state_dict(), **kept}.items()}


def assert_same(some: dict[str, np.ndarray], others: dict[str, np.ndarray], tolerance: float) -> None:
    assert list(some) == list(others)
    for name in some:
        np.testing.assert_allclose(some[name], others[name], rtol=tolerance, atol=tolerance, err_msg=name)


@each_step
def test_compiled_is_as_eager(step: Any) -> None:
    """Two calls in training and one in evaluation: outputs, BatchNorm's statistics and traces are equal after each."""
    (eager, x), (compiled, _) = make(step), make(step)
    before = state_of(compiled)
    run = fb.jit(lambda net, x: net(x))
    for mode in (True, True, False):
        np.testing.assert_allclose(eager.train(mode)(x), run(compiled.train(mode), x), rtol=1e-5, atol=1e-6)
        assert_same(state_of(eager), state_of(compiled), 1e-6)
    # What was compared is not simply at rest.
    moved = {name for name, array in state_of(compiled).items() if name not in before or (array != before[name]).any()}
    assert moved == {name for name in state_of(compiled) if re.search("running_|num_batches|trace", name)} != set()


def test_reprs_are_those_of_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the article's own sizes; the weights stay zeros, which is quicker than drawing 500 million of them."""
    for name in ("kaiming_uniform_", "uniform_"):
        monkeypatch.setattr(nn.init, name, lambda tensor, *args, **kwargs: tensor)
    assert reprs.page(article.STEPS) == reprs.GOLDEN.read_text(encoding="utf-8")


def test_golden_reprs_are_what_pytorch_prints(torch: Any) -> None:
    assert reprs.page_of_torch() == reprs.GOLDEN.read_text(encoding="utf-8")


@functools.cache
def steps_on_torch() -> list[Any]:
    return reprs.article_on_torch().STEPS


@pytest.mark.parametrize("place", range(len(article.STEPS)), ids=lambda place: article.STEPS[place].title)
def test_numbers_are_those_of_pytorch(torch: Any, place: int) -> None:
    """The very same code on torch, with the same weights, gives the same outputs and the same state."""
    net, x = make(article.STEPS[place])
    twin = steps_on_torch()[place].build(SMALL)
    twin.load_state_dict({name: torch.tensor(np.asarray(array)) for name, array in net.state_dict().items()})
    with torch.no_grad():
        np.testing.assert_allclose(net(x), twin(torch.tensor(np.asarray(x))), rtol=1e-4, atol=1e-5)
    assert_same(state_of(net), state_of(twin), 1e-5)


ANSWERS = {
    "forward indented into __init__": "ForwardMissingError: .*inside of MyEncoder.__init__",
    "modules in a plain Python list": r"HiddenModulesWarning: .*`layers` hides 2 modules.*self.layers = nn.ModuleList\(",
    "a decoder that expects another number of channels than the encoder gives": (
        r"ShapeError: decoder.dec_blocks.0.0 \(Linear.*expected input \(\*, 2048\), got float32\[4, 4096\]"
    ),
    "a module called without its input": "TypeError: .*missing 1 required positional argument: 'input'",
    "a misspelt container": "AttributeError: .*'ModuleLIst'.*'ModuleList'",
    "a misspelt layer": "AttributeError: .*'batchNorm2d'.*'BatchNorm2d'",
    "a misspelt argument": "TypeError: .*'kernel_szie'.*'kernel_size'",
}


@pytest.mark.parametrize("title", article.MISTAKES)
def test_mistakes_are_answered(title: str) -> None:
    answer = article.answer_to(article.MISTAKES[title])
    assert re.match(ANSWERS[title], answer), answer


def test_walking_through(capsys: pytest.CaptureFixture[str]) -> None:
    article.walk_through(SMALL)
    printed = capsys.readouterr().out
    for number, step in enumerate(article.STEPS, 1):
        assert f"{number}. {step.title}\n" in printed
    assert "(4, 1, 6, 6) -> eager (4, 10), compiled (4, 10)" in printed
    # One eager call and one compiled call, of two layers each.
    assert "trace: (4, 16) (4, 32) (4, 16) (4, 32)" in printed
    assert all(title in printed for title in article.MISTAKES)
