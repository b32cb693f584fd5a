"""The house stands as CONTRIBUTING.md draws it: which part imports which, what is exported, how long a file is."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "flambeau"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# What each part may import of the others. A part may always import itself, and none may import the whole, `flambeau`.
LOW = {"_errors", "core"}
PUBLIC_NN = {"nn", "nn.functional", "nn.init"}
MAY_IMPORT: dict[str, set[str]] = {
    "_errors": set(),
    "core": {"_errors"},
    "nn.functional": LOW,
    "nn.init": LOW,
    "nn": LOW | {"nn.functional", "nn.init"},
    "transforms": LOW,
    "optim": LOW | {"transforms"},
    "io": LOW | {"transforms"},
    "distributed": LOW | {"transforms"},
    "inspection": LOW | {"transforms"},
    "models": PUBLIC_NN | {"_errors", "io", "transforms"},
}
# The front door and the command line, which stand above all parts.
ABOVE = {"flambeau", "flambeau.cli"}

# Files that are namespaces of their own, as in PyTorch: `nn.init.zeros_`, never `nn.zeros_`.
NAMESPACES = {
    "flambeau.nn.init",
    "flambeau.nn.utils.rnn",
    "flambeau.nn.utils.parametrize",
    "flambeau.nn.utils.parametrizations",
    "flambeau.nn.utils.prune",
    "flambeau.cli",
}

EXTRAS = {"torch", "matplotlib", "mlxtend", "orbax", "hypothesis", "pytest", "equinox", "flax"}
LONGEST_FILE = 650


def module_name(path: Path) -> str:
    """`flambeau/nn/__init__.py` is the module `flambeau.nn`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in SOURCES}


def is_exported_by_its_package(module: str) -> bool:
    """Whether what `module` lists belongs into its package too: not so for packages, namespaces and private files.

    The core lists for the rest of the house; what of it users need stands in `flambeau` itself.
    """
    if module.startswith("flambeau.core."):
        return False
    name = module.rpartition(".")[2]
    private = name.startswith("_") and module != "flambeau._errors"
    return MODULES[module].name != "__init__.py" and module not in NAMESPACES and not private


def part_of(module: str) -> str | None:
    """The part of the house that `module` belongs to; None for what is in no part."""
    inside = module.removeprefix("flambeau.")
    owners = [part for part in MAY_IMPORT if inside == part or inside.startswith(part + ".")]
    return max(owners, key=len, default=None)


def imports_of(module: str) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that `module` imports, wherever it does; a submodule by its own name."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            for alias in node.names:
                whole = f"{source}.{alias.name}"
                yield node.lineno, whole if whole in MODULES else source


def forbidden(module: str) -> Iterator[str]:
    """The imports of `module` that run against the house."""
    part = part_of(module)
    if part is None:
        yield f"{module} belongs to no part of the house: give it one in MAY_IMPORT"
        return
    for line, target in imports_of(module):
        if target.split(".")[0] != "flambeau" or part_of(target) == part:
            continue
        if part_of(target) not in MAY_IMPORT[part]:
            yield f"{module}:{line} imports {target}; {part} may import {sorted(MAY_IMPORT[part]) or 'nothing'}"
        elif part == "models" and target.removeprefix("flambeau.") not in MAY_IMPORT[part]:
            yield f"{module}:{line} imports {target}; models are written with what the packages export"


def test_imports_run_one_way() -> None:
    broken = [line for module in MODULES if module not in ABOVE for line in forbidden(module)]
    assert not broken, "\n".join(broken)


def test_every_part_of_the_house_has_its_rule() -> None:
    """The rules are not empty words: each one names a part that a file of the tree belongs to, or may still come."""
    to_come = {"distributed", "inspection"}
    assert set(MAY_IMPORT) - {part_of(module) for module in MODULES} <= to_come


def test_torch_is_never_imported() -> None:
    imports = [(module, line, name) for module in MODULES for line, name in imports_of(module)]
    found = [f"{module}:{line}" for module, line, name in imports if name.split(".")[0] == "torch"]
    assert not found, f"flambeau runs without torch; imported in {', '.join(found)}"


@pytest.mark.parametrize("name", MODULES)
def test_public_names_exist(name: str) -> None:
    module = importlib.import_module(name)
    exported = getattr(module, "__all__", [])
    assert sorted(set(exported)) == sorted(exported), "a name is listed twice"
    assert [each for each in exported if not hasattr(module, each)] == []


@pytest.mark.parametrize("name", [name for name, path in MODULES.items() if path.name == "__init__.py"])
def test_packages_export_what_their_files_list(name: str) -> None:
    package = importlib.import_module(name)
    exported = set(getattr(package, "__all__", []))
    files = [file for file in MODULES if file.rpartition(".")[0] == name and is_exported_by_its_package(file)]
    listed = {public: file for file in files for public in getattr(importlib.import_module(file), "__all__", [])}
    missing = [f"{public} (of {file})" for public, file in sorted(listed.items()) if public not in exported]
    assert not missing, f"{name}.__all__ lacks {', '.join(missing)}"


def test_import_needs_no_extra() -> None:
    code = "import sys, flambeau; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    loaded = EXTRAS & set(done.stdout.split())
    assert not loaded, f"import flambeau imports {sorted(loaded)}"


def test_files_are_short() -> None:
    """A file holds one idea: 500 lines are long, and here is where the test stops asking nicely."""
    folders = ["flambeau", "tests", "examples", "benchmarks", "scripts"]
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
    }
    too_long = {path: length for path, length in lengths.items() if length > LONGEST_FILE}
    assert not too_long
