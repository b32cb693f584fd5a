"""Files of weights."""

from __future__ import annotations

from flambeau.io.checkpointer import Checkpointer, Restored
from flambeau.io.files import load, save
from flambeau.io.loading import Report, load_into, renamed
from flambeau.io.tensors import Tensors

__all__ = ["Checkpointer", "Report", "Restored", "Tensors", "load", "load_into", "renamed", "save"]
