"""`fb.compilation_cache`: what was compiled once is read from a folder by later processes."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import jax
from jax.experimental.compilation_cache.compilation_cache import reset_cache

__all__ = ["compilation_cache"]


def compilation_cache(directory: str | os.PathLike[str]) -> Path:
    """Keeps all that JAX compiles from now on in a folder, and reads from there what an earlier process compiled.

    A compiled function is found again by its program, its options, and the versions of JAX and XLA; a function that changed
    is compiled anew. Tracing, which runs the Python code, is done in every process.

    What lies in the folder is run, so it should be one that nobody else can write to.

    Args:
        directory: a folder of this machine; it is made if it is not there. It grows without limit: delete it, or set
            `jax.config.update("jax_compilation_cache_max_size", bytes)`.

    Returns:
        The folder's absolute path.

    Raises:
        ValueError: it is an address, such as `gs://bucket`: set JAX's `jax_compilation_cache_dir` for such a one.
        OSError: the folder cannot be made, or not be written to.

    Example:
        >>> import jax
        >>> import flambeau as fb
        >>> folder = fb.compilation_cache("compiled")
        >>> folder.name, folder.is_dir()
        ('compiled', True)
        >>> jax.config.update("jax_compilation_cache_dir", None)  # no cache from here on

    Source: https://docs.jax.dev/en/latest/persistent_compilation_cache.html
    """
    if "://" in os.fspath(directory):
        raise ValueError(
            f"compilation_cache: expected a folder of this machine, got {os.fspath(directory)}; for an address, call "
            f"jax.config.update('jax_compilation_cache_dir', address)"
        )
    folder = Path(directory).expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"compilation_cache: the folder {folder} cannot be written to: {error}") from error
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_enable_compilation_cache", True)
    # As a rule JAX leaves out what compiled in less than a second, of which a program has many.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # JAX decides once, when it first compiles, whether there is a cache.
    reset_cache()
    return folder
