"""Imports run experiments -> sweeps -> cifar_core, never backwards, and the core stands alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
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


def test_core_loads_without_sweep_and_plot_libraries() -> None:
    names = [
        ".".join(path.with_suffix("").parts).removesuffix(".__init__")
        for path in MODULES
        if path.parts[0] == "cifar_core"
    ]
    script = (
        "import importlib, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        f"print(*sorted({FORBIDDEN['cifar_core']!r} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []
