"""Copies of a model that are fitted again to resampled rows: draws from them carry uncertainty of the parameters."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from pyro_vae.data.rows import Rows
from pyro_vae.fields import ROW_WEIGHTS

__all__ = ["check_refit", "refits"]


def check_refit(refit: Any, options: Any, *, single: bool) -> None:
    """Raise unless the arguments about refits, of `impute` and `contrast`, are possible."""
    if refit is None:
        if options is not None:
            raise ValueError(f"refit_options must be left out without refit=; got {options!r}. Pass refit='bootstrap'.")
        return
    if refit != "bootstrap":
        raise ValueError(f"refit must be 'bootstrap' or None; got {refit!r}. Choose one of these.")
    if single:
        raise ValueError("refit must be left out with single=, one best guess; got both. Choose one of both.")
    if not isinstance(options, Mapping) or "epochs" not in options:
        raise ValueError(
            f"refit_options must be arguments of fit with the number of epochs; got {options!r}. Pass e.g."
            " refit_options={'epochs': 200}: so many that more of them change the results no further."
        )


def refits(
    model: Any, rows: Rows, count: int, options: Mapping[str, Any], fields: tuple[str, ...], seed: int | None
) -> Iterator[Any]:
    """Copies of the model, each fitted on from its parameters to as many rows drawn with replacement.

    Args:
        model: the fitted model, which stays as it is.
        rows: the rows.
        count: the number of copies.
        options: arguments of `fit`.
        fields: names of the fields that the programs receive.
        seed: seed of the rows that are drawn and of the fits; None to use the global random state.
    """
    unknown = sorted(set(options) - set(inspect.signature(model.fit).parameters) | set(options) & {"data"})
    if unknown:
        raise TypeError(f"refit_options must be arguments of fit; got {unknown[0]!r}. Correct the name.")
    state, model.training_state = model.training_state, None
    try:
        start = copy.deepcopy(model)
    finally:
        model.training_state = state
    used = [name for name in rows.field_names if name in (*fields, ROW_WEIGHTS)]
    named = {"fields": ("x", *used)} if used else {}
    generator = torch.Generator()
    generator.manual_seed(int(torch.randint(2**62, ())) if seed is None else seed)
    for _ in range(count):
        chosen = torch.randint(len(rows), (len(rows),), generator=generator)
        again = copy.deepcopy(start)
        own = {"seed": int(torch.randint(2**31, (), generator=generator)), "progress": False}
        again.fit(rows.subset(chosen), **(named | own | dict(options)))
        yield again
