"""Every exception and warning that flambeau raises of its own.

    FlambeauError
    ├── ShapeError          an input whose shape, rank or channel count does not fit     (RuntimeError, ValueError)
    ├── DtypeError          an input whose dtype does not fit                            (RuntimeError, TypeError)
    ├── StateError          state that would be lost, stale, or left holding a tracer    (RuntimeError)
    ├── StateDictError      keys or shapes of a state dict that do not fit               (RuntimeError)
    ├── RegistrationError   a module, parameter or buffer that cannot be registered so   (KeyError, TypeError)
    ├── ForwardMissingError a module is called whose class has no `forward`              (NotImplementedError)
    ├── CheckpointError     a file that cannot be read or written as a checkpoint        (RuntimeError)
    ├── MissingExtraError   an optional dependency is not installed                      (ImportError)
    └── AbsentNameError     a name of PyTorch that makes no sense on JAX                 (ImportError)

    FlambeauWarning (UserWarning)
    ├── HiddenModulesWarning   modules in a plain list, tuple or dict, which torch would silently not train
    ├── RecompilationWarning   a function that compiles again and again, with the attribute that causes it
    └── BakedValueWarning      a parameter read under a raw jax.jit, whose present value becomes a constant

Where PyTorch raises a built-in exception for the same mistake, ours is also an instance of that one, so that code which
catches `RuntimeError` or `ValueError` today goes on working.
"""

from __future__ import annotations

__all__ = [
    "AbsentNameError",
    "BakedValueWarning",
    "CheckpointError",
    "DtypeError",
    "FlambeauError",
    "FlambeauWarning",
    "ForwardMissingError",
    "HiddenModulesWarning",
    "MissingExtraError",
    "RecompilationWarning",
    "RegistrationError",
    "ShapeError",
    "StateDictError",
    "StateError",
]


class FlambeauError(Exception):
    """Base of every error of flambeau.

    `location` is the module in whose call the error arose, as `path (repr line)`; `Module.__call__` fills it in while the
    exception leaves the module tree, so a function of `nn.functional` raises with the bare message.
    """

    location: str | None = None

    def __str__(self) -> str:
        message = Exception.__str__(self)  # not KeyError's, which shows the repr of the message
        return f"{self.location}: {message}" if self.location else message


class ShapeError(FlambeauError, RuntimeError, ValueError):
    """An input has the wrong shape, rank or number of channels."""


class DtypeError(FlambeauError, RuntimeError, TypeError):
    """An input has a dtype that the operation does not take."""


class StateError(FlambeauError, RuntimeError):
    """State would be lost, go stale, or be left holding a tracer."""


class StateDictError(FlambeauError, RuntimeError):
    """A state dict does not fit the module: the message lists every key that is missing, unexpected or of another shape."""


class RegistrationError(FlambeauError, KeyError, TypeError):
    """A name or value cannot be registered on a module (a dot in the name, a name that hides a method, a module in itself)."""


class ForwardMissingError(FlambeauError, NotImplementedError):
    """A module was called whose class defines no `forward`."""


class AbsentNameError(FlambeauError, ImportError):
    """PyTorch has this name, flambeau has not: the message says what to use."""


class CheckpointError(FlambeauError, RuntimeError):
    """A file cannot be read or written as a checkpoint."""


class MissingExtraError(FlambeauError, ImportError):
    """A feature needs an optional dependency; the message names the extra to install."""


class FlambeauWarning(UserWarning):
    """Base of every warning of flambeau."""


class HiddenModulesWarning(FlambeauWarning):
    """Modules stand in a plain list, tuple or dict, where neither `parameters()` nor `state_dict()` sees them."""


class RecompilationWarning(FlambeauWarning):
    """A compiled function compiles again on every call because of an attribute that changes on every call."""


class BakedValueWarning(FlambeauWarning):
    """A parameter was read under a raw `jax.jit`: its present value becomes a constant of the compiled function."""
