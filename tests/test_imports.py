"""The rooms import in one direction, and importing the package is quick and changes nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "pyro_vae"

# From the ground up: a room imports rooms of earlier lines only.
LAYERS = [
    ["arguments", "distributions", "runtime"],
    ["bounds", "data", "parts", "schedules"],
    ["nets"],
    ["datasets", "guides", "inference", "likelihoods", "plots", "priors"],
    ["elbos", "predictive", "saving"],
    ["evaluation", "training"],
    ["model", "reporting"],
    ["criticism", "hierarchical", "vae"],
    ["loading"],
    ["__init__"],
    ["cli"],
    ["__main__"],
]
RANK = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}
LATE = {"plots", "reporting"}  # imported inside methods, for the user's convenience
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree: ast.AST, level: str) -> set[str]:
    """Rooms that are imported at the top of a file, or anywhere else in it."""
    top = set(ast.iter_child_nodes(tree))
    found = set()
    for node in ast.walk(tree):
        if (node in top) != (level == "top"):
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "pyro_vae":
            rest = node.module.split(".")[1:]
            found |= {rest[0]} if rest else {alias.name if alias.name in RANK else "__init__" for alias in node.names}
        if isinstance(node, ast.Import):
            found |= {"__init__" for alias in node.names if alias.name.split(".")[0] == "pyro_vae"}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_rooms_import_earlier_rooms_only(path: Path) -> None:
    room, tree = room_of(path), ast.parse(path.read_text())
    later = {name for name in imported(tree, "top") - {room} if RANK[name] >= RANK[room]}
    assert not later
    assert imported(tree, "late") - {room} <= LATE | {name for name in RANK if RANK[name] < RANK[room]}


def test_the_checks_on_imports_can_fail() -> None:
    tree = ast.parse("from pyro_vae.model import LatentVariableModel\ndef f():\n    from pyro_vae import cli")
    assert imported(tree, "top") == {"model"}
    assert imported(tree, "late") == {"cli"}


def test_importing_changes_no_global_and_loads_nothing_heavy() -> None:
    code = """
import sys, torch, pyro
def state():
    flags = torch.get_default_dtype(), torch.get_num_threads(), pyro.distributions.is_validation_enabled()
    return torch.get_rng_state().tolist(), *flags
before = state()
import pyro_vae
assert state() == before
heavy = {"torchvision", "matplotlib", "zuko", "pandas", "xarray", "sklearn", "pyro_vae.cli"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
