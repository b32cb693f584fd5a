"""Every example that a user can read runs: the python blocks of README.md and docs/, and the doctests of all modules.

They run as a user's program does: 32-bit types, an empty working folder, and warnings as errors on top. The seed is one
that is nobody's default, so an example which prints random numbers without seeding fails instead of passing by luck.
"""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

import flambeau as fb

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^(?P<indent> *)```python *\n(?P<code>.*?)^(?P=indent)```", re.MULTILINE | re.DOTALL)
IMPORTS_TORCH = re.compile(r"^\s*(import|from) torch\b", re.MULTILINE)


@pytest.fixture(autouse=True)
def as_a_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    cache = jax.config.values["jax_compilation_cache_dir"]
    with jax.enable_x64(False):
        fb.manual_seed(9_041)
        yield
    if jax.config.values["jax_compilation_cache_dir"] != cache:  # an example showed how to choose another
        fb.compilation_cache(cache)


def python_blocks(page: Path) -> list[str]:
    """The python blocks of `page`, each after as many empty lines as put it on its own line numbers in a traceback."""
    text = page.read_text(encoding="utf-8")
    return [
        "\n" * text.count("\n", 0, match.start("code")) + textwrap.dedent(match["code"])
        for match in BLOCK.finditer(text)
    ]


def _page_parameter(page: Path) -> Any:
    needs_torch = page.exists() and any(map(IMPORTS_TORCH.search, python_blocks(page)))
    return pytest.param(page, id=str(page.relative_to(ROOT)), marks=[pytest.mark.parity] if needs_torch else [])


def _module_names() -> list[str]:
    def fail(name: str) -> None:
        raise ImportError(f"{name} cannot be imported")

    found = pkgutil.walk_packages(fb.__path__, "flambeau.", onerror=fail)
    return ["flambeau", *sorted(module.name for module in found)]


@pytest.mark.parametrize("page", [_page_parameter(page) for page in PAGES])
def test_page(page: Path, request: pytest.FixtureRequest) -> None:
    """The blocks of a page run from top to bottom in one namespace."""
    if request.node.get_closest_marker("parity"):
        pytest.importorskip("torch")
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in python_blocks(page):
        exec(compile(block, str(page), "exec"), namespace)


@pytest.mark.parametrize("name", _module_names())
def test_doctests(name: str) -> None:
    """The examples of a module's docstrings print what they say."""
    module = importlib.import_module(name)
    report: list[str] = []
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS)
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, name):
        runner.run(test, out=report.append)
    if report:
        pytest.fail("".join(report), pytrace=False)
