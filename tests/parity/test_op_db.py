"""The samples of PyTorch's own table of functions: outputs and first gradients; and its wrong inputs, which have to raise.

There are 5,843 of 117 functions. `FLAMBEAU_SAMPLES=all` runs every one, which takes half an hour; otherwise it is how many
of each function to run, 3 unless it is set, from all over its list.
"""

from __future__ import annotations

import math
import os
import warnings
from typing import Any

import jax
import pytest

import flambeau as fb
from flambeau.nn import functional as F
from tests.parity.samples import assert_same, our_results, ours, their_results

torch = pytest.importorskip("torch")
invocations = pytest.importorskip("torch.testing._internal.common_methods_invocations")

MOST = os.environ.get("FLAMBEAU_SAMPLES", "3")
PREFIX = "nn.functional."
TABLE = {
    f"{op.name.removeprefix(PREFIX)} {op.variant_test_name}".strip(): op
    for op in invocations.op_db
    if op.name.startswith(PREFIX) and op.name.removeprefix(PREFIX) in dir(F) and op.supported_dtypes("cpu")
}
# What is drawn is another number here: shapes and dtypes are compared.
RANDOM = {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout", "rrelu",
          "fractional_max_pool2d", "fractional_max_pool3d", "gumbel_softmax"}  # fmt: skip


def test_every_function_is_here() -> None:
    theirs = {op.name.removeprefix(PREFIX) for op in invocations.op_db if op.name.startswith(PREFIX)}
    assert len(TABLE) == 117
    assert theirs - set(dir(F)) <= {"grouped_mm", "scaled_mm", "scaled_grouped_mm"}


def dtype_of(op: Any) -> Any:
    supported = op.supported_dtypes("cpu")
    return next(dtype for dtype in (torch.float64, torch.complex128, torch.int64) if dtype in supported)


def function_of(op: Any) -> Any:
    """Our function, with the arguments in the order of the table's samples."""
    function = getattr(F, op.name.removeprefix(PREFIX))
    if function in (F.embedding, F.embedding_bag):
        return lambda weight, indices, **options: function(indices, weight, **options)
    return function


def samples_of(op: Any) -> list[Any]:
    dtype = dtype_of(op)
    differentiable = op.supports_autograd and (dtype.is_floating_point or dtype.is_complex)
    if function_of(op) is not F.multi_head_attention_forward:
        return list(op.sample_inputs("cpu", dtype, requires_grad=differentiable))
    # With gradients the table has one sample alone, at random.
    samples = list(op.sample_inputs("cpu", dtype, requires_grad=False))
    for sample in samples:
        for tensor in [sample.input, *sample.args, *sample.kwargs.values()]:
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                tensor.requires_grad_()
    return samples


def is_random(op: Any, sample: Any) -> bool:
    if function_of(op) is F.multi_head_attention_forward:
        return sample.kwargs["training"] and sample.args[9] > 0
    return op.name.removeprefix(PREFIX) in RANDOM or sample.kwargs.get("dropout_p", 0.0) > 0


@pytest.mark.parametrize("name", TABLE)
def test_samples(name: str) -> None:
    op = TABLE[name]
    torch.manual_seed(0)
    samples = [sample for sample in samples_of(op) if not sample.kwargs.get("sparse")]  # docs/differences.md
    assert samples
    step = 1 if MOST == "all" else math.ceil(len(samples) / int(MOST))
    wrong = []
    for i in range(0, len(samples), step):
        try:
            check(op, samples[i])
        except Exception as error:
            wrong.append(f"sample {i} {samples[i].kwargs}: {type(error).__name__}: {str(error).strip()[:600]}")
    assert not wrong, f"{len(wrong)} of {len(samples)}\n" + "\n".join(wrong)


def check(op: Any, sample: Any) -> None:
    names = list(sample.kwargs)
    every = [sample.input, *sample.args, *sample.kwargs.values()]
    count = len(every) - len(names)

    def call(function: Any, *arguments: Any) -> Any:
        return function(*arguments[:count], **dict(zip(names, arguments[count:], strict=True)))

    function = function_of(op)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's: what is deprecated, or slow
        outputs, gradients = their_results(lambda *arguments: call(op.op, *arguments), every, {})
        our_outputs, our_gradients = our_results(
            lambda _, *arguments: call(function, *arguments), None, ours(every), every
        )
    if is_random(op, sample):
        assert [(a.shape, str(a.dtype)) for a in our_outputs] == [(tuple(b.shape), str(b.dtype)[6:]) for b in outputs]
    else:
        assert_same(our_outputs, outputs, "output", 1e-7)
        assert_same(our_gradients, gradients, "gradient", 1e-7)


WRONG = [name for name, op in TABLE.items() if op.error_inputs_func is not None]


@pytest.mark.parametrize("name", WRONG)
def test_wrong_inputs_raise(name: str) -> None:
    op = TABLE[name]
    function = function_of(op)
    passed = []
    for i, wrong in enumerate(op.error_inputs("cpu")):
        sample = wrong.sample_input
        try:
            result = function(*ours([sample.input, *sample.args]), **ours(sample.kwargs))
        except (fb.FlambeauError, ValueError, RuntimeError, TypeError, IndexError, NotImplementedError):
            continue
        passed.append(f"error input {i} {sample.kwargs}: {wrong.error_regex}; gave {jax.tree.map(jax.typeof, result)}")
    assert not passed, "\n".join(passed)
