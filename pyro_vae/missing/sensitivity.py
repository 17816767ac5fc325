"""How much a conclusion depends on the assumption that cells are missing at random."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyro_vae.arguments import is_number
from pyro_vae.runtime.display import Shown

__all__ = ["Sensitivity", "sensitivity"]


@dataclass(frozen=True, repr=False)
class Sensitivity(Shown):
    """Pooled results by the shift that was added to imputed cells.

    Attributes:
        column: the name or number of the column.
        shifts: what was added, in the units of the column.
        results: the pooled result for each shift.
    """

    column: Any
    shifts: list[float]
    results: list[Any]

    def lines(self) -> list[dict[str, Any]]:
        """Lines of the table, one for each shift and parameter."""
        return self._by_shift([result.lines() for result in self.results])

    def _by_shift(self, lines: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
        """Lines of the results, each with its shift."""
        by_shift = zip(self.shifts, lines, strict=True)
        return [{f"shift of {self.column}": shift} | line for shift, own in by_shift for line in own]

    def _headline(self) -> str:
        return f"{len(self.shifts)} shifts of {self.column}"

    def __str__(self) -> str:
        from pyro_vae import reporting

        return (
            f"{reporting.table(self._by_shift([result.readable_lines() for result in self.results]))}\n"
            f"A shift assumes that missing cells of {self.column} are larger by this than observed ones of like rows; 0"
            " is missing at random."
        )

    def to_pandas(self) -> Any:
        """The table as a pandas frame (needs pandas)."""
        import pandas

        return pandas.DataFrame(self.lines())


def sensitivity(
    model: Any,
    x: Any,
    *,
    shift: Mapping[Any, Sequence[float]],
    analysis: Callable[[Any], Any],
    num_imputations: int = 20,
    complete_df: float | None = None,
    seed: int | None = None,
    **options: Any,
) -> Sensitivity:
    """Delta adjustment: impute as if missing at random, shift the imputed cells of a column, and analyse again.

    If a conclusion holds for every shift that is plausible, it does not depend on the assumption. This is what users of
    mice do by `post`. The same imputations are shifted each time, so that differences are not noise.

    Args:
        model: the fitted model.
        x: rows (B, *E) with missing cells, in any form that `fit` takes.
        shift: one column, by name or number, and the numbers to add to its imputed cells, in its units; 0 is "missing
            at random".
        analysis: a function of a completed data set that returns estimates and their squared standard errors.
        num_imputations: m.
        complete_df: as in `pv.pool`.
        seed: seed of the draws.
        **options: as in `impute`.

    Raises:
        TypeError: if it is no model, or `analysis` no function.
        ValueError: if the column is unknown or holds levels, or a shift is not a number.

    References:
        *Flexible Imputation of Missing Data* (van Buuren, 2018), section 3.8 and 9.2
    """
    if not callable(getattr(model, "impute", None)):
        raise TypeError(f"model must be a fitted model, such as a VAE; got {type(model).__name__}. Pass the model.")
    if getattr(model, "site_of_missing", None) is not None:
        raise ValueError(
            "model must assume that cells are missing at random, which shifts depart from; got one with a mechanism."
            " Use a model with AtRandom."
        )
    if not callable(analysis):
        raise TypeError(f"analysis must be a function of a completed data set; got {analysis!r}. Pass a function.")
    if not isinstance(shift, Mapping) or len(shift) != 1:
        raise ValueError(
            f"shift must be a dictionary with one column and its shifts; got {shift!r}. Pass e.g. {{'age': [0, 5]}}."
        )
    ((column, shifts),) = shift.items()
    shifts = list(shifts) if isinstance(shifts, Iterable) and not isinstance(shifts, str) else [shifts]
    shifts = [value.item() if hasattr(value, "item") else value for value in shifts]
    if not shifts or not all(is_number(value) for value in shifts):
        raise ValueError(f"shifts must be numbers; got {shifts!r}. Pass e.g. [0, 5].")
    found = model.impute(x, num_imputations=num_imputations, seed=seed, **options)
    results = [found.shifted(column, float(value)).pool(analysis, complete_df=complete_df) for value in shifts]
    return Sensitivity(column, [float(value) for value in shifts], results)
