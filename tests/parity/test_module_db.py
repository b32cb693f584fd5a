"""Every sample of PyTorch's own table of modules, in training and in evaluation: outputs, gradients, state afterwards."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from flambeau import nn
from tests.parity.samples import assert_same, our_results, ours, their_results, weights_of

torch = pytest.importorskip("torch")
common_modules = pytest.importorskip("torch.testing._internal.common_modules")

TABLE = {info.name.removeprefix("nn."): info for info in common_modules.module_db}
# Shards of the two long lists, so that two processes share them out.
SHARDS = {"LinearCrossEntropyLoss": 8}


def test_the_table_is_whole() -> None:
    assert len(TABLE) == 114


def samples_of(name: str, training: bool) -> list[Any]:
    torch.manual_seed(0)
    info = TABLE[name]
    return info.module_inputs_func(info, device="cpu", dtype=torch.float64, requires_grad=True, training=training)


def cases() -> list[Any]:
    return [
        pytest.param(name, training, shard, id=f"{name}-{'train' if training else 'eval'}-{shard}")
        for name in TABLE
        for training in (True, False)
        for shard in range(SHARDS.get(name, 1))
    ]


@pytest.mark.parametrize(("name", "training", "shard"), cases())
def test_samples(name: str, training: bool, shard: int) -> None:
    samples = samples_of(name, training)
    assert samples
    wrong = []
    for i in range(shard, len(samples), SHARDS.get(name, 1)):
        try:
            check(name, samples[i], training)
        except Exception as error:
            wrong.append(f"sample {i} ({samples[i].desc}): {type(error).__name__}: {str(error).strip()[:800]}")
    assert not wrong, f"{len(wrong)} of {len(samples)}\n" + "\n".join(wrong)


def check(name: str, sample: Any, training: bool) -> None:
    made, given = sample.constructor_input, sample.forward_input
    args, kwargs = list(given.args), given.kwargs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's: what is deprecated, nested tensors, shapes that look odd
        theirs = getattr(torch.nn, name)(*made.args, **made.kwargs).double().train(training)
        mine = getattr(nn, name)(*ours(made.args), **ours(made.kwargs)).double().train(training)
        if name.startswith("Lazy"):
            theirs(*args, **kwargs)
        mine.load_state_dict(weights_of(theirs))
        parameters = {n: p for n, p in theirs.named_parameters() if p.requires_grad}
        names = list(kwargs)
        every = [*args, *(kwargs[n] for n in names)]

        def call(module: Any, *arguments: Any) -> Any:
            count = len(args)
            return module(*arguments[:count], **dict(zip(names, arguments[count:], strict=True)))

        outputs, gradients = their_results(lambda *a: call(theirs, *a), every, parameters)
        our_outputs, our_gradients = our_results(call, mine, ours(every), every)
    assert_same(our_outputs, outputs, "output")
    assert_same(our_gradients, gradients, "gradient")
    after = weights_of(theirs)
    assert list(mine.state_dict()) == list(after)
    for key, value in mine.state_dict().items():
        np.testing.assert_allclose(value, after[key], rtol=1e-9, atol=1e-9, err_msg=key)
