"""The shape of the house: imports run downwards, chains of them are short, and no folder is crowded."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LONGEST_CHAIN = 9  # modules of experiments/ that import one another, from a command down to a price
LARGEST_FOLDER = 14  # modules, `__init__.py` aside
FORBIDDEN = {
    "cifar_core": {"optuna", "mlflow", "pandas", "plotly", "sweeps", "experiments"},
    "sweeps": {"pandas", "plotly", "experiments"},
    "experiments": set[str](),
}
MODULES = sorted(path.relative_to(ROOT) for package in FORBIDDEN for path in (ROOT / package).rglob("*.py"))


def imported_packages(tree: ast.Module) -> set[str]:
    """Top-level packages that a module names in an import, wherever in the module that stands."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


def test_imports_are_found_wherever_they_stand() -> None:
    source = "import a.b, c as d\nfrom . import near\ndef f():\n    from e.g import h\n"
    assert imported_packages(ast.parse(source)) == {"a", "c", "e"}


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_module_says_what_it_is_and_imports_only_downwards(path: Path) -> None:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{path} needs a docstring that says what is in it"
    wrong = imported_packages(tree) & FORBIDDEN[path.parts[0]]
    assert not wrong, f"{path} must not import {', '.join(sorted(wrong))}"


def test_import_chains_within_experiments_are_short() -> None:
    imports = {_name(path): _imported_modules(path) for path in MODULES if path.parts[0] == "experiments"}

    def chain(module: str, above: tuple[str, ...] = ()) -> tuple[str, ...]:
        assert module not in above, f"imports must not run in a circle: {' -> '.join([*above, module])}"
        below = [chain(name, (*above, module)) for name in sorted(imports[module] & imports.keys() - {module})]
        return (module, *max(below, key=len, default=()))

    longest = max(map(chain, imports), key=len)
    assert len(longest) <= LONGEST_CHAIN, " -> ".join(longest)


def test_all_files_of_the_packages_are_installed() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    installed = {path for name, globs in patterns.items() for one in globs for path in (ROOT / name).glob(one)}
    listed = subprocess.run(["git", "ls-files", *FORBIDDEN], cwd=ROOT, capture_output=True, text=True, check=True)
    others = {ROOT / line for line in listed.stdout.splitlines() if not line.endswith(".py")}
    assert others <= installed, f"package-data in pyproject.toml lacks {sorted(others - installed)}"


def test_no_folder_is_crowded() -> None:
    folders = Counter(path.parent for path in MODULES if path.name != "__init__.py")
    crowded = [f"{folder}: {count}" for folder, count in folders.items() if count > LARGEST_FOLDER]
    assert not crowded, f"cut these folders by subject: {', '.join(crowded)}"


def _name(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def _imported_modules(path: Path) -> set[str]:
    """The modules that a module imports, as `a.b` and, of `from a.b import c`, as `a.b.c` too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names.update({node.module, *(f"{node.module}.{alias.name}" for alias in node.names)})
    return names


@pytest.mark.slow
def test_core_loads_without_sweep_and_plot_libraries() -> None:
    names = [_name(path) for path in MODULES if path.parts[0] == "cifar_core"]
    script = (
        "import importlib, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        f"print(*sorted({FORBIDDEN['cifar_core']!r} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []
