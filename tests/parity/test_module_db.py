"""The samples of PyTorch's own table of modules, in training and in evaluation: outputs, gradients, state afterwards.

There are 3,618 of them, of 114 classes. `FLAMBEAU_SAMPLES=all` runs every one, which takes a while; otherwise it is how many
of each class and mode to run, 10 unless it is set, from all over its list.
"""

from __future__ import annotations

import math
import os
import warnings
from typing import Any

import numpy as np
import pytest

from flambeau import nn
from tests.parity.samples import assert_same, our_results, ours, their_results, weights_of

torch = pytest.importorskip("torch")
common_modules = pytest.importorskip("torch.testing._internal.common_modules")

TABLE = {info.name.removeprefix("nn."): info for info in common_modules.module_db}
MOST = os.environ.get("FLAMBEAU_SAMPLES", "10")
# Of the long list, so that several processes share it out.
SHARDS = {"LinearCrossEntropyLoss": 8} if MOST == "all" else {}


def test_the_table_is_whole() -> None:
    samples = [len(samples_of(name, training)) for name in TABLE for training in (True, False)]
    assert (len(TABLE), sum(samples)) == (114, 3618)


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
    step = SHARDS.get(name, 1) if MOST == "all" else math.ceil(len(samples) / int(MOST))
    for i in range(shard, len(samples), step):
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
