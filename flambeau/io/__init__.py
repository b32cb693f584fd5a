"""Files of weights."""

from __future__ import annotations

from flambeau.io.safetensors import load, save

__all__ = ["load", "save"]
