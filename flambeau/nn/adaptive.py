"""The softmax of many classes of which few are frequent."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from flambeau._errors import ShapeError
from flambeau.core.module import Module
from flambeau.nn import functional as F
from flambeau.nn.container import ModuleList, Sequential
from flambeau.nn.functional._checks import describe
from flambeau.nn.functional._inputs import check_integer, known
from flambeau.nn.linear import Linear

__all__ = ["AdaptiveLogSoftmaxWithLoss"]


class _ASMoutput(NamedTuple):
    """The log-probability of each target, and the mean of them with its sign turned."""

    output: jax.Array
    loss: jax.Array


class AdaptiveLogSoftmaxWithLoss(Module):
    """A softmax over classes that are sorted by frequency: the frequent ones have scores of their own, the others share one.

    log p(y) = log softmax(head)_y for a class y of the shortlist, and else that of its cluster + log softmax(tail)_y with a
    small layer for each cluster. As shapes are known before an array is, each cluster is computed for all rows.

    Args:
        in_features: the size of the input.
        n_classes: how many classes there are.
        cutoffs: the first class of each cluster, in order.
        div_value: by how much the layer of each cluster is narrower than that of the one before.
        head_bias: whether the head has a bias.
        device: where the parameters lie.
        dtype: the dtype of the parameters.

    Shape:
        input `(N, in_features)` or `(in_features,)`, target `(N,)` or `()`, result a named tuple of output `(N,)` or `()` and
        loss `()`.

    Raises:
        ValueError: the cutoffs are none, not in order, or no classes behind the first.
        ShapeError: input and target do not fit.
        DtypeError: the target holds no integers.
        RuntimeError: a target is no class; under a transform, where it is not known, its output is NaN.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> loss = nn.AdaptiveLogSoftmaxWithLoss(16, 100, cutoffs=[10, 50])
        >>> loss(jnp.ones((3, 16)), jnp.array([1, 20, 99])).output.shape
        (3,)
        >>> jnp.exp(loss.log_prob(jnp.ones((1, 16)))).sum().round(4)
        Array(1., dtype=float32)

    Source: https://arxiv.org/abs/1609.04309
    """

    def __init__(
        self,
        in_features: int,
        n_classes: int,
        cutoffs: Iterable[int],
        div_value: float = 4.0,
        head_bias: bool = False,
        device: Any = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        super().__init__()
        starts = list(cutoffs)
        if not starts or starts != sorted({int(start) for start in starts if 0 < start < n_classes}):
            raise ValueError(f"expected cutoffs, ints in order from 1 to {n_classes - 1}, got {starts}")
        self.in_features = in_features
        self.n_classes = n_classes
        self.cutoffs = [*starts, n_classes]
        self.div_value = div_value
        self.head_bias = head_bias
        self.shortlist_size = self.cutoffs[0]
        self.n_clusters = len(self.cutoffs) - 1
        self.head_size = self.shortlist_size + self.n_clusters
        self.head = Linear(in_features, self.head_size, head_bias, device, dtype)
        self.tail = ModuleList()
        for i, (start, stop) in enumerate(pairwise(self.cutoffs), 1):
            width = int(in_features // div_value**i)
            first = Linear(in_features, width, False, device, dtype)
            self.tail.append(Sequential(first, Linear(width, stop - start, False, device, dtype)))

    def reset_parameters(self) -> None:
        """Draws the parameters anew."""
        for layer in self.modules():
            if isinstance(layer, Linear):
                layer.reset_parameters()

    def forward(self, input_: jax.Array, target_: jax.Array) -> _ASMoutput:
        check_integer(target_, "target")
        if target_.ndim > 1 or (*target_.shape, self.in_features) != input_.shape:
            expected = f"input (N, {self.in_features}) and target (N,), or ({self.in_features},) and ()"
            raise ShapeError(f"expected {expected}, got {describe(input_)} and {describe(target_)}")
        values = known(target_)
        if values is not None and values.size and (values.min() < 0 or values.max() >= self.n_classes):
            raise RuntimeError(f"expected classes in [0, {self.n_classes - 1}], got {values.min()} to {values.max()}")
        output = self._log_likelihood(input_, target_)
        return _ASMoutput(output, -jnp.mean(output))

    def _log_likelihood(self, input: jax.Array, target: jax.Array) -> jax.Array:
        """The log-probability of each target."""
        head = F.log_softmax(self.head(input), -1)
        output = jnp.where((target >= 0) & (target < self.shortlist_size), _pick(head, target), jnp.nan)
        for i, (start, stop) in enumerate(pairwise(self.cutoffs)):
            inside = (target >= start) & (target < stop)
            cluster = F.log_softmax(self.tail[i](input), -1)
            output = jnp.where(inside, head[..., self.shortlist_size + i] + _pick(cluster, target - start), output)
        return output

    def log_prob(self, input: jax.Array) -> jax.Array:
        """The log-probabilities of all classes.

        Args:
            input: the rows.

        Shape:
            input `(N, in_features)`, result `(N, n_classes)`.

        Example:
            >>> import jax.numpy as jnp
            >>> from flambeau import nn
            >>> nn.AdaptiveLogSoftmaxWithLoss(16, 100, [10, 50]).log_prob(jnp.ones((3, 16))).shape
            (3, 100)
        """
        head = F.log_softmax(self.head(input), -1)
        size = self.shortlist_size
        tails = [F.log_softmax(cluster(input), -1) + head[..., [size + i]] for i, cluster in enumerate(self.tail)]
        return jnp.concatenate([head[..., :size], *tails], -1)

    def predict(self, input: jax.Array) -> jax.Array:
        """The most likely class of each row.

        Args:
            input: the rows.

        Shape:
            input `(N, in_features)`, result `(N,)`.

        Example:
            >>> import jax.numpy as jnp
            >>> from flambeau import nn
            >>> nn.AdaptiveLogSoftmaxWithLoss(16, 100, [10, 50]).predict(jnp.ones((3, 16))).shape
            (3,)
        """
        return jnp.argmax(self.log_prob(input), -1)


def _pick(x: jax.Array, classes: jax.Array) -> jax.Array:
    """The entry of each row at a class, or at the nearest that there is."""
    return jnp.take_along_axis(x, jnp.clip(classes, 0, x.shape[-1] - 1)[..., None], -1)[..., 0]
