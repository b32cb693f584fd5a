"""Writes what PyTorch prints for each network of examples/article.py: the text that the tests hold flambeau's repr to.

The networks are those of the example itself, which runs on PyTorch once its two imports of flambeau give torch's modules.

    python scripts/make_article_reprs.py        # needs torch; writes tests/examples/golden/article_reprs.txt
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "examples" / "golden" / "article_reprs.txt"
SIZE = 28


def article(**modules: Any) -> ModuleType:
    """A fresh import of examples/article.py, with some of the modules that it imports replaced."""
    spec = importlib.util.spec_from_file_location("article", ROOT / "examples" / "article.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # A dataclass looks its module up while the module runs.
    with mock.patch.dict(sys.modules, {**modules, "article": module}):
        spec.loader.exec_module(module)
    return module


def article_on_torch() -> ModuleType:
    """The example with PyTorch in flambeau's place."""
    import torch

    flambeau = ModuleType("flambeau")
    vars(flambeau)["nn"] = torch.nn
    return article(**{"flambeau": flambeau, "flambeau.nn": torch.nn})


def page(steps: list[Any]) -> str:
    """The title and the repr of each network."""
    return "\n".join(f"# {step.title}\n{step.build(SIZE)!r}\n" for step in steps)


def page_of_torch() -> str:
    """What PyTorch prints. Nothing is allocated: only the shapes matter."""
    import torch

    with torch.device("meta"):
        return page(article_on_torch().STEPS)


if __name__ == "__main__":
    GOLDEN.parent.mkdir(parents=True, exist_ok=True)
    GOLDEN.write_text(page_of_torch(), encoding="utf-8")
    print(f"wrote {GOLDEN.relative_to(ROOT)}")
