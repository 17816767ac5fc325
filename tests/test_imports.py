"""Where things are: rooms import rooms of lower layers only and stand in CONTRIBUTING.md; importing changes nothing."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "pyro_vae"

# A room is a file or a folder of the package. It imports rooms of the layers before its own only.
LAYERS = [
    ["arguments", "distributions", "fields", "runtime"],
    ["bounds", "data", "graphs", "parts", "schedules"],
    ["nets"],
    ["covariates", "guides", "inference", "likelihoods", "missing", "plots", "priors"],
    ["elbos", "predictive", "saving", "tables"],
    ["datasets", "evaluation", "imputation", "training"],
    ["model", "reporting"],
    ["criticism", "models"],
    ["loading", "web"],
    ["__init__"],
    ["cli", "sklearn"],
    ["__main__"],
]
MAX_LAYERS, MAX_MODULES = 12, 10
ROOMS = [(number, room) for number, rooms in enumerate(LAYERS, 1) for room in rooms]
RANK = {room: number for number, room in ROOMS}
LATE = {"plots", "reporting"}  # these may be imported inside functions, for the user's convenience
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text()) for path in FILES}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree: ast.AST, level: str) -> set[str]:
    """Rooms that are imported at the top of a file ("top"), or anywhere else in it ("late")."""
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


def files_imported(tree: ast.Module, files: dict[str, Path]) -> set[Path]:
    """Files of the package that are imported at the top of a file; `files` maps dotted names to paths."""
    names = []
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    modules = [name if name in files else name.rpartition(".")[0] for name in names]  # a module, or defined in one
    return {files[module] for module in modules if module in files}


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def circle(imports: dict[str, set[str]]) -> list[str]:
    """Names that import each other in a circle; none if there is no circle."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def rooms_in_table(text: str) -> list[tuple[int, str]]:
    """Layer and room of each line of the table under "Where things are"."""
    section = text.partition("\n## Where things are\n")[2].partition("\n## ")[0]
    return [(int(number), room) for number, room in re.findall(r"^\| (\d+) \| `(\w+)` \| \S.* \|$", section, re.M)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_rooms_import_rooms_of_lower_layers_only(path: Path) -> None:
    room, tree = room_of(path), TREES[path]
    later = {name for name in imported(tree, "top") - {room} if RANK[name] >= RANK[room]}
    assert not later
    assert imported(tree, "late") - {room} <= LATE | {name for name in RANK if RANK[name] < RANK[room]}


def test_every_room_is_in_exactly_one_layer() -> None:
    listed, present = [room for _, room in ROOMS], {room_of(path) for path in FILES}
    twice = {room for room in listed if listed.count(room) > 1}
    assert not twice, f"LAYERS lists rooms twice: {sorted(twice)}"
    assert not present - set(listed), f"LAYERS lacks rooms of pyro_vae: {sorted(present - set(listed))}"
    assert not set(listed) - present, f"LAYERS lists rooms that pyro_vae lacks: {sorted(set(listed) - present)}"


def test_layers_and_modules_are_few() -> None:
    modules = [path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("__")]
    assert len(LAYERS) <= MAX_LAYERS, f"{len(LAYERS)} layers"
    assert len(modules) <= MAX_MODULES, f"{len(modules)} modules beside the packages: {sorted(modules)}"


@pytest.mark.parametrize("room", sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()))
def test_files_of_a_room_do_not_import_each_other_in_a_circle(room: str) -> None:
    files = {dotted(path): path for path in FILES if room_of(path) == room}
    imports = {name: {dotted(other) for other in files_imported(TREES[path], files)} for name, path in files.items()}
    found = circle(imports)
    assert not found, f"a circle of imports: {' <- '.join(found)}"


def test_contributing_lists_every_room_with_its_layer() -> None:
    assert rooms_in_table((ROOT / "CONTRIBUTING.md").read_text()) == ROOMS


def steps_of_flow(text: str) -> list[tuple[str, str]]:
    """The files and functions of the section on how data flow: one pair for each name in a line of it."""
    section = text.split("\n## How data flow\n")[1].split("\n## ")[0]
    lines = re.findall(r"^ {4,}([\w/]+\.py) +([\w.]+(?:, [\w.]+)*)(?: {2}|$)", section, flags=re.MULTILINE)
    return [(file, name.split(".")[-1]) for file, names in lines for name in names.split(", ")]


@pytest.mark.parametrize(("file", "name"), steps_of_flow((ROOT / "CONTRIBUTING.md").read_text()))
def test_the_functions_that_contributing_shows_data_to_flow_through_exist(file: str, name: str) -> None:
    tree = ast.parse((PACKAGE / file).read_text())
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assert name in defined or f"{name}(" in (PACKAGE / file).read_text()


def test_the_flow_of_data_has_its_three_ways() -> None:
    names = [name for _, name in steps_of_flow((ROOT / "CONTRIBUTING.md").read_text())]
    assert {"fit", "log_likelihood", "posterior_predictive"} <= set(names) and len(names) > 30


def test_the_checks_on_imports_can_fail() -> None:
    tree = ast.parse("from pyro_vae.model import LatentVariableModel\ndef f():\n    from pyro_vae import cli")
    assert imported(tree, "top") == {"model"}
    assert imported(tree, "late") == {"cli"}
    files = {dotted(path): path for path in FILES}
    assert files_imported(tree, files) == {PACKAGE / "model.py"}
    tree = ast.parse("from pyro_vae.elbos import base, ELBO")
    assert files_imported(tree, files) == {PACKAGE / "elbos" / "base.py", PACKAGE / "elbos" / "__init__.py"}
    assert circle({"a": {"b"}, "b": {"a"}}) and not circle({"a": {"b"}, "b": set()})
    table = "\n## Where things are\n\n| layer | room | what it holds |\n| --- | --- | --- |\n| 1 | `a` | A. |\n\n## B\n"
    assert rooms_in_table(table) == [(1, "a")] and rooms_in_table(table + "| 2 | `b` | B. |\n") == [(1, "a")]


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
