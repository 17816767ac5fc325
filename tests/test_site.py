"""The site names everything that is public, and its commands and links are right."""

from __future__ import annotations

import inspect
import re
import shlex
from operator import attrgetter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import pyro_vae as pv
from pyro_vae import cli
from pyro_vae.cli import options, scoring

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "guide").glob("*.md"))]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def commands(page: Path) -> list[list[str]]:
    """The commands in the blocks of shell code of a page, as lists of words."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").replace("&&", "\n").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def of_pyro_vae(words: list[str]) -> list[str] | None:
    """The arguments of a call of the command line, also within `torchrun`; None for other commands."""
    if words[0] == "pyro-vae":
        return words[1:]
    return words[words.index("pyro_vae") + 1 :] if "pyro_vae" in words else None


def test_the_reference_names_everything_public() -> None:
    listed = {
        f"{room}.{entry}"
        for page in (ROOT / "docs" / "reference").glob("*.md")
        for room, entries in re.findall(r"```{family} (\S+)\n(.*?)```", page.read_text(), re.DOTALL)
        for entry in entries.split()
    }
    there = {id(attrgetter(path.removeprefix("pyro_vae."))(pv)) for path in listed}
    rooms = {"pyro_vae": pv} | {f"pyro_vae.{n}": getattr(pv, n) for n in pv.__all__ if inspect.ismodule(getattr(pv, n))}
    public = {f"{room}.{n}": getattr(space, n) for room, space in rooms.items() for n in space.__all__}
    missing = {path for path, value in public.items() if not (inspect.ismodule(value) or id(value) in there)}
    assert not missing
    assert listed <= set(public)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_of_python_on_a_page_is_a_doctest(page: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        assert block.startswith(">>> ")
        assert block.endswith("\n\n"), f"an empty line must end the block, or doctest reads the fence:\n{block}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_commands_of_a_page_exist(page: Path) -> None:
    for words in commands(page):
        if (arguments := of_pyro_vae(words)) is not None:
            options.parser().parse_args(arguments)
    for script in re.findall(r"\bpython ((?:examples|benchmarks)/\w+\.py)", page.read_text()):
        assert (ROOT / script).exists(), f"{name(page)} names {script}"


def test_the_links_of_the_readme_lead_to_files() -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / "README.md").read_text())
    assert len(links) > 10
    assert not [link for link in links if "://" not in link and not (ROOT / link).exists()]


@pytest.mark.slow
def test_the_commands_of_the_first_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "ANNEALING", pv.evaluation.AIS(num_steps=3, num_chains=4))
    monkeypatch.chdir(tmp_path)
    run(ROOT / "docs" / "guide" / "first_model.md", 5)


@pytest.mark.slow
def test_the_commands_of_the_page_on_tables_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"id": range(200), "age": random.normal(50, 10, 200), "visits": random.poisson(3, 200)})
    frame["age"] = frame["age"].mask(random.random(200) < 0.2)
    frame.to_csv("people.csv", index=False)
    frame[:20].to_csv("new.csv", index=False)
    run(ROOT / "docs" / "tables.md", 4)
    assert len(pd.read_csv("drawn.csv")) == 100


def run(page: Path, count: int) -> None:
    """Run the page's calls of the command line to the letter, but with few epochs and with few draws."""
    found = [arguments for words in commands(page) if (arguments := of_pyro_vae(words)) is not None]
    assert len(found) == count
    scored = ["--num-likelihood-particles", "20", "--num-likelihood-rows", "2"]
    fewer = {"train": ["--epochs", "3", *scored], "evaluate": ["--num-particles", "20", "--rows", "2"]}
    for arguments in found:
        assert cli.main([*arguments, *fewer.get(arguments[0], [])]) == 0
