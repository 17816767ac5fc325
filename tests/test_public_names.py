"""The public surface: what `dir(pv)` lists, and that every class which a public call returns has a public name."""

from __future__ import annotations

import inspect
import types
import typing
from typing import Any

import pyro_vae as pv


def namespaces() -> dict[str, Any]:
    return {"pv": pv} | {name: getattr(pv, name) for name in pv.__all__ if inspect.ismodule(getattr(pv, name))}


def public() -> dict[str, Any]:
    """Every public object by its name."""
    return {f"{room}.{name}": getattr(space, name) for room, space in namespaces().items() for name in space.__all__}


def calls() -> dict[str, Any]:
    """Every public function, and every public method of a public class."""
    found = {}
    for name, value in public().items():
        if inspect.isfunction(value):
            found[name] = value
        if inspect.isclass(value) and value.__module__.startswith("pyro_vae"):
            for method, function in inspect.getmembers(value, inspect.isfunction):
                if not method.startswith("_") and function.__module__.startswith("pyro_vae"):
                    found[f"{name}.{method}"] = function
    return found


def our_classes(hint: Any) -> set[type]:
    """The classes of ours in a type hint."""
    if isinstance(hint, types.GenericAlias) or typing.get_args(hint):
        return {cls for part in typing.get_args(hint) for cls in our_classes(part)}
    return {hint} if inspect.isclass(hint) and hint.__module__.startswith("pyro_vae") else set()


def test_dir_lists_the_public_names_and_nothing_else() -> None:
    assert dir(pv) == sorted(pv.__all__)
    assert all(hasattr(pv, name) for name in dir(pv))


def test_every_class_that_a_public_call_returns_has_a_public_name() -> None:
    named = {id(value) for value in public().values()}
    missing = {
        f"{name} -> {cls.__module__}.{cls.__qualname__}"
        for name, function in calls().items()
        for cls in our_classes(typing.get_type_hints(function).get("return"))
        if id(cls) not in named
    }
    assert not missing
    assert len(calls()) > 100
