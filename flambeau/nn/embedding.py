"""Lookup tables."""

from __future__ import annotations

from typing import Any, Self

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from flambeau.core.cell import Cell, Parameter
from flambeau.core.module import Module
from flambeau.nn import functional as F
from flambeau.nn import init
from flambeau.nn._factory import zeros
from flambeau.nn.functional._checks import describe

__all__ = ["Embedding", "EmbeddingBag"]


class Embedding(Module):
    """A table of learnt rows that are looked up by index: yᵢ = weight[inputᵢ].

    The initial rows are drawn from N(0, 1), that of `padding_idx` is zero.

    Args:
        num_embeddings: how many rows the table has.
        embedding_dim: how long a row is.
        padding_idx: a row (negative: from the end) that gets no gradient.
        max_norm: the largest norm a row may have; each call brings the rows that it looks up down to it, in `weight` too.
        norm_type: the p of that norm.
        scale_grad_by_freq: whether to divide the gradient of a row by how often the input holds its index.
        sparse: only False; JAX has no sparse gradients.
        _weight: a table to begin with, which is copied.
        _freeze: whether the table is not learnt.
        device: where the table lies.
        dtype: its dtype.

    Shape:
        input `(*)` of integers, result `(*, embedding_dim)`.

    Raises:
        AssertionError: `padding_idx` is outside of the table, or `_weight` has another shape, as in PyTorch.
        ValueError: `sparse` is True.
        DtypeError: the input holds no integers.
        IndexError: an index is outside of the table (under a transform, where it is not known, its row is NaN).

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> table = nn.Embedding(10, 3, padding_idx=0)
        >>> table(jnp.array([[1, 2, 4, 5], [4, 3, 2, 9]])).shape
        (2, 4, 3)
        >>> table(jnp.array([0]))
        Array([[0., 0., 0.]], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.Embedding.html
    """

    weight: jax.Array

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        _weight: Any = None,
        _freeze: bool = False,
        device: Any = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        super().__init__()
        if sparse:
            raise ValueError("expected sparse=False: JAX has no sparse gradients, and those of an embedding are dense")
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.padding_idx = _from_the_front(padding_idx, num_embeddings)
        self.max_norm = max_norm
        self.norm_type = norm_type
        self.scale_grad_by_freq = scale_grad_by_freq
        self.sparse = sparse
        shape = (num_embeddings, embedding_dim)
        self.register_parameter("weight", _table(shape, _weight, not _freeze, device, dtype))
        if _weight is None:
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the table anew."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            self.weight = self.weight.at[self.padding_idx].set(0)

    def forward(self, input: jax.Array) -> jax.Array:
        if self.max_norm is not None:
            self.weight = F.renormalize(self.weight, input, self.max_norm, self.norm_type)
        return F.embedding(input, self.weight, self.padding_idx, scale_grad_by_freq=self.scale_grad_by_freq)

    def extra_repr(self) -> str:
        parts = [f"{self.num_embeddings}, {self.embedding_dim}"]
        parts += [] if self.padding_idx is None else [f"padding_idx={self.padding_idx}"]
        parts += [] if self.max_norm is None else [f"max_norm={self.max_norm}"]
        parts += [] if self.norm_type == 2 else [f"norm_type={self.norm_type}"]
        parts += [f"scale_grad_by_freq={self.scale_grad_by_freq}"] if self.scale_grad_by_freq else []
        return ", ".join(parts)

    @classmethod
    def from_pretrained(
        cls,
        embeddings: Any,
        freeze: bool = True,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
    ) -> Self:
        """Makes the layer from a table, which is not learnt unless `freeze=False`.

        Args:
            embeddings: the table `(V, D)`, which is copied.
            freeze: whether the table is not learnt.
            padding_idx: as for the class; the row stays what it is.
            max_norm: as for the class.
            norm_type: as for the class.
            scale_grad_by_freq: as for the class.
            sparse: as for the class.

        Raises:
            AssertionError: `embeddings` is no matrix.

        Example:
            >>> import jax.numpy as jnp
            >>> from flambeau import nn
            >>> table = nn.Embedding.from_pretrained(jnp.array([[1.0, 2.3, 3.0], [4.0, 5.1, 6.3]]))
            >>> table(jnp.array([1]))
            Array([[4. , 5.1, 6.3]], dtype=float32)
        """
        if embeddings.ndim != 2:
            raise AssertionError(f"expected embeddings (V, D), got {describe(embeddings)}")
        rows, columns = embeddings.shape
        return cls(rows, columns, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse, embeddings, freeze)


class EmbeddingBag(Module):
    """A table of learnt rows, of which each bag of indices gives the sum, the mean or the maximum.

    The initial rows are drawn from N(0, 1), that of `padding_idx` is zero.

    Args:
        num_embeddings: how many rows the table has.
        embedding_dim: how long a row is.
        max_norm: the largest norm a row may have; each call brings the rows that it looks up down to it, in `weight` too.
        norm_type: the p of that norm.
        scale_grad_by_freq: whether to divide the gradient of a row by how often the input holds its index; not for "max".
        mode: "sum", "mean" or "max".
        sparse: only False; JAX has no sparse gradients.
        _weight: a table to begin with, which is copied.
        include_last_offset: whether the last offset is where the last bag ends.
        padding_idx: a row (negative: from the end) that belongs to no bag.
        device: where the table lies.
        dtype: its dtype.

    Shape:
        input `(B, L)`, or `(L,)` with offsets `(B,)` or `(B + 1,)`, per_sample_weights (only for "sum") like input, result
        `(B, embedding_dim)`.

    Raises:
        AssertionError: `padding_idx` is outside of the table, or `_weight` has another shape, as in PyTorch.
        ValueError: `sparse` is True, or options do not go together.
        ShapeError: input, offsets and weights do not fit.
        DtypeError: the input holds no integers.
        IndexError: an index is outside of the table (under a transform, where it is not known, its bag is NaN).

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> bags = nn.EmbeddingBag.from_pretrained(jnp.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]), mode="sum")
        >>> bags(jnp.array([2, 0, 1]), jnp.array([0, 2]))
        Array([[4., 6.],
               [2., 3.]], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.EmbeddingBag.html
    """

    weight: jax.Array

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        _weight: Any = None,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        device: Any = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        super().__init__()
        if sparse:
            raise ValueError("expected sparse=False: JAX has no sparse gradients, and those of an embedding are dense")
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.max_norm = max_norm
        self.norm_type = norm_type
        self.scale_grad_by_freq = scale_grad_by_freq
        self.padding_idx = _from_the_front(padding_idx, num_embeddings)
        self.mode = mode
        self.sparse = sparse
        self.include_last_offset = include_last_offset
        shape = (num_embeddings, embedding_dim)
        self.register_parameter("weight", _table(shape, _weight, True, device, dtype))
        if _weight is None:
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the table anew."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            self.weight = self.weight.at[self.padding_idx].set(0)

    def forward(
        self, input: jax.Array, offsets: jax.Array | None = None, per_sample_weights: jax.Array | None = None
    ) -> jax.Array:
        if self.max_norm is not None:
            self.weight = F.renormalize(self.weight, input, self.max_norm, self.norm_type)
        return F.embedding_bag(
            input,
            self.weight,
            offsets,
            scale_grad_by_freq=self.scale_grad_by_freq,
            mode=self.mode,
            per_sample_weights=per_sample_weights,
            include_last_offset=self.include_last_offset,
            padding_idx=self.padding_idx,
        )

    def extra_repr(self) -> str:
        parts = [f"{self.num_embeddings}, {self.embedding_dim}"]
        parts += [] if self.max_norm is None else [f"max_norm={self.max_norm}"]
        parts += [] if self.norm_type == 2 else [f"norm_type={self.norm_type}"]
        parts += [f"scale_grad_by_freq={self.scale_grad_by_freq}"] if self.scale_grad_by_freq else []
        parts += [f"mode={self.mode!r}"]
        parts += [] if self.padding_idx is None else [f"padding_idx={self.padding_idx}"]
        return ", ".join(parts)

    @classmethod
    def from_pretrained(
        cls,
        embeddings: Any,
        freeze: bool = True,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
    ) -> Self:
        """Makes the layer from a table, which is not learnt unless `freeze=False`.

        Args:
            embeddings: the table `(V, D)`, which is copied.
            freeze: whether the table is not learnt.
            max_norm: as for the class.
            norm_type: as for the class.
            scale_grad_by_freq: as for the class.
            mode: as for the class.
            sparse: as for the class.
            include_last_offset: as for the class.
            padding_idx: as for the class; the row stays what it is.

        Raises:
            AssertionError: `embeddings` is no matrix.

        Example:
            >>> import jax.numpy as jnp
            >>> from flambeau import nn
            >>> bags = nn.EmbeddingBag.from_pretrained(jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
            >>> bags(jnp.array([[1, 0]]))
            Array([[2.5, 3.5, 4.5]], dtype=float32)
        """
        if embeddings.ndim != 2:
            raise AssertionError(f"expected embeddings (V, D), got {describe(embeddings)}")
        net = cls(
            *embeddings.shape,
            max_norm=max_norm,
            norm_type=norm_type,
            scale_grad_by_freq=scale_grad_by_freq,
            mode=mode,
            sparse=sparse,
            _weight=embeddings,
            include_last_offset=include_last_offset,
            padding_idx=padding_idx,
        )
        net.get_parameter("weight").requires_grad = not freeze
        return net


def _from_the_front(padding_idx: int | None, rows: int) -> int | None:
    if padding_idx is None:
        return None
    if not -rows <= padding_idx < max(rows, 1):
        raise AssertionError(f"expected padding_idx within the {rows} rows, got {padding_idx}")
    return padding_idx + rows if padding_idx < 0 else padding_idx


def _table(shape: tuple[int, int], given: Any, learnt: bool, device: Any, dtype: DTypeLike | None) -> Parameter:
    """A copy of the given table, or one whose values are still to be drawn."""
    if given is None:
        return Parameter(zeros(shape, device, dtype), requires_grad=learnt)
    if tuple(given.shape) != shape:
        raise AssertionError(f"expected _weight {shape}, got {tuple(given.shape)}")
    return Parameter(jnp.array(given.data if isinstance(given, Cell) else given), requires_grad=learnt)
