"""Where PyTorch's code imports `Parameter` and its kin from: `from flambeau.nn.parameter import Parameter`."""

from __future__ import annotations

from flambeau.core.cell import Buffer, Parameter, UninitializedBuffer, UninitializedParameter

__all__ = ["Buffer", "Parameter", "UninitializedBuffer", "UninitializedParameter"]
