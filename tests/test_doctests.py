"""The examples in docstrings, of the package as it is installed."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import pyro_vae

MODULES = [
    "pyro_vae",
    *(m.name for m in pkgutil.walk_packages(pyro_vae.__path__, "pyro_vae.") if "__main__" not in m.name),
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name: str) -> None:
    module = importlib.import_module(name)
    assert doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE).failed == 0


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder()
    examples = [test for name in MODULES for test in finder.find(importlib.import_module(name)) if test.examples]
    assert len(examples) > 10
