"""What holds for every test.

64-bit types are on, so that parity with torch can be checked in float64; `test_docs.py` turns them off again for the
examples that users read. XLA's optimizations are off, and the default generator begins anew. What was compiled once is kept
in `.jax_cache`, where the other workers and the next run find it: `make clean` removes that.

Which tests need torch is found here and nowhere else. A test that compares with torch says so in one of two ways,

    torch = pytest.importorskip("torch")        # at the top of a file: all of the file needs torch

    def test_linear(torch): ...                 # the fixture below: this test needs torch

and gets the marker `parity`. `make test` runs `-m "not parity"` and needs no torch; `make parity` installs torch and
runs `-m parity`. So no test runs twice in CI, and none is left out: a test that is skipped because torch is missing and
has no marker would run nowhere, so it fails.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import hypothesis
import jax
import pytest

from flambeau.core.random import manual_seed
from flambeau.transforms.compilation_cache import compilation_cache

jax.config.update("jax_enable_x64", True)
# Most of the time goes into compiling what runs once, and how well the result is optimized is not what is tested.
jax.config.update("jax_disable_most_optimizations", True)
compilation_cache(Path(__file__).parents[1] / ".jax_cache")

# The first call of a jitted function compiles: an example may take seconds once and microseconds ever after.
hypothesis.settings.register_profile("local", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
# A change is judged by the same examples as the one before it; new ones are looked for on the way there. To shrink one that
# fails takes minutes, which are better spent where somebody waits for it.
hypothesis.settings.register_profile(
    "ci",
    parent=hypothesis.settings.get_profile("local"),
    derandomize=True,
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test draws the same numbers, whichever tests came before it in its process."""
    manual_seed(0)


@pytest.fixture(scope="session")
def torch() -> Any:
    """The oracle; a test that asks for it is a parity test."""
    return pytest.importorskip("torch")


@cache
def _uses_torch(module: ModuleType) -> bool:
    """Whether `module` imported torch, or anything of it, when it was collected."""
    return any(
        (getattr(value, "__name__", "") if isinstance(value, ModuleType) else "").split(".")[0] == "torch"
        for value in vars(module).values()
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks as `parity` every test that uses torch."""
    for item in items:
        module = getattr(item, "module", None)
        if "torch" in getattr(item, "fixturenames", ()) or (module is not None and _uses_torch(module)):
            item.add_marker("parity")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turns a skip for want of torch into a failure where `make parity` would not pick the test up."""
    report = yield
    if report.skipped and "could not import 'torch'" in str(report.longrepr) and not item.get_closest_marker("parity"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} needs torch: take the fixture `torch`, or import it at the top of the file"
    return report
