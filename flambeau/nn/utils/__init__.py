"""Helpers of PyTorch's `torch.nn.utils`, with its names."""

from __future__ import annotations

from flambeau.nn.utils import rnn

__all__ = ["rnn"]
