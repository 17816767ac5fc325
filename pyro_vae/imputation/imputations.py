"""The result of `impute`: completed data, in the form in which the data came."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pyro_vae.arguments import finite_number
from pyro_vae.data.rows import Rows
from pyro_vae.imputation.pooling import Pooled, pool
from pyro_vae.inference import pareto
from pyro_vae.inference.pareto import UnreliableWarning
from pyro_vae.runtime.display import Shown

__all__ = ["Imputations", "joined", "warn_if_unreliable"]


COLLAPSED = 0.05  # nats: below this mean KL the guide hardly differs from the prior


@dataclass(frozen=True, repr=False)
class Imputations(Shown, Sequence[Any]):
    """Completed data sets: `imputations[0]` is the first one, in the form of the data (frame or tensor).

    Attributes:
        values: the cells as numbers, (m, N, *E), observed cells as they were.
        observed: which cells were observed, (N, *E).
        khat: Pareto k-hat of the importance weights of each row, (N,); -inf for rows without a missing cell.
        ess: effective number of candidates of each row, (N,); NaN for rows without a missing cell.
        num_candidates: K, the number of draws of the latents for each row.
        single: the kind of best guess, or None for draws.
        rows: the incomplete rows.
        kl: the mean over incomplete rows of KL(q(z | x) || p(z)), in nats: what observed cells say about the latents;
            None if no row is incomplete.
    """

    values: Tensor
    observed: Tensor
    khat: Tensor
    ess: Tensor
    num_candidates: int
    single: str | None
    rows: Rows
    kl: float | None = None

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self.completed(values) for values in self.values[index]]
        return self.completed(self.values[index])

    def __iter__(self) -> Iterator[Any]:
        return map(self.completed, self.values)

    def completed(self, values: Tensor) -> Any:
        """A completed data set as a frame, where the data came as one; else the tensor itself."""
        frame = getattr(self.rows, "frame", None)
        if frame is not None:
            return frame(values, own_rows=True)
        return values if self.rows.columns is None else self._pandas(values)

    def _pandas(self, values: Tensor) -> Any:
        import pandas

        return pandas.DataFrame(
            values.reshape(len(values), -1).numpy(), index=self.rows.index, columns=self.rows.columns
        )

    @property
    def flagged(self) -> Tensor:
        """The rows whose draws are not to be relied on, (N,): k-hat above its threshold with fewer than 100 effective
        candidates, or unknown."""
        return pareto.flagged(self.khat, self.ess, pareto.threshold(self.num_candidates))

    def long(self, *, include_incomplete: bool = False) -> Any:
        """All completed data sets below each other as a pandas frame, with the columns `.imp` and `.id`, as in mice.

        Args:
            include_incomplete: whether the incomplete data come first, as number 0.
        """
        import pandas

        sets = list(enumerate(self, 1))
        if include_incomplete:
            x = self.rows.take(slice(None))["x"].to(self.values)
            sets.insert(0, (0, self.completed(x.masked_fill(~self.observed, torch.nan))))
        parts = []
        for number, one in sets:
            frame = _as_pandas(one)
            part = pandas.DataFrame({".imp": number, ".id": frame.index}, index=frame.index)
            parts.append(pandas.concat([part, frame], axis=1))
        return pandas.concat(parts, ignore_index=True)

    def shifted(self, column: Any, shift: float) -> Imputations:
        """These imputations with a number added to the imputed cells of one column, by name or number.

        Raises:
            ValueError: if the column is unknown or holds levels, the shift is not a finite number, is not whole in a
                column of whole numbers, or takes a cell out of the range of its kind.
        """
        finite_number("shift", shift)
        cells, observed = self.values.reshape(*self.values.shape[:2], -1).clone(), self.observed.flatten(1)
        names = self.rows.columns or list(range(cells.shape[2]))
        if column not in names:
            raise ValueError(f"column must be one of {names}; got {column!r}. Correct the name.")
        j = names.index(column)
        schema = getattr(self.rows, "schema", None)
        if schema is not None and not schema.holds_numbers(column):
            raise ValueError(f"column must hold numbers to be shifted; got {column!r} with levels. Choose another.")
        cells[:, :, j] += torch.where(observed[:, j], 0.0, shift)
        if schema is not None:
            schema.check_shift(column, shift, cells[:, ~observed[:, j], j])
        return replace(self, values=cells.reshape(self.values.shape))

    def pool(self, analysis: Callable[[Any], Any], *, complete_df: float | None = None) -> Pooled:
        """Apply an analysis to each completed data set, and pool its results by Rubin's rules.

        Args:
            analysis: a function of a completed data set that returns a tuple: estimates, and their squared standard
                errors or covariance matrix, as `pv.pool` takes them.
            complete_df: the degrees of freedom of the analysis with complete data.

        Raises:
            ValueError: for a single best guess, which hides that cells were missing.
            TypeError: if `analysis` is no function, or does not return a tuple of two.
        """
        if self.single is not None:
            raise ValueError(
                f"Imputations must be draws to be pooled; got one best guess, single={self.single!r}. Impute without"
                " single=."
            )
        if not callable(analysis):
            raise TypeError(f"analysis must be a function of a completed data set; got {analysis!r}. Pass a function.")
        results = [_as_pair(analysis(one)) for one in self]
        return pool([r[0] for r in results], [r[1] for r in results], complete_df=complete_df)

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        missing, gaps = int((~self.observed).sum()), (~self.observed).reshape(len(self.observed), -1).any(1)
        what = f"{len(self)} imputations" if self.single is None else f"one best guess ({self.single})"
        flagged = int(self.flagged.sum())
        return (
            f"{what} of {missing:,} missing cells ({missing / self.observed.numel():.1%}) in {int(gaps.sum()):,} of"
            f" {len(gaps):,} rows; {flagged:,} rows flagged by k-hat"
        )


def _as_pair(result: Any) -> tuple[Any, Any]:
    """Estimates and variances, as an analysis returned them."""
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise TypeError(
            "analysis must return a tuple (estimates, squared standard errors); got"
            f" {type(result).__name__}{f' of {len(result)}' if isinstance(result, tuple | list) else ''}. Write e.g."
            " return one['age'].mean(), one['age'].var() / len(one)."
        )
    return result[0], result[1]


def joined(parts: Sequence[Imputations]) -> Imputations:
    """Imputations of the same rows by several models as one; of each row the worst k-hat, with a warning as usual."""
    khat = torch.stack([part.khat for part in parts])
    worst = torch.where(khat.isnan().any(0), torch.nan, khat.nan_to_num(-torch.inf, neginf=-torch.inf).amax(0))
    ess = torch.stack([part.ess for part in parts]).amin(0)
    values, known = torch.cat([part.values for part in parts]), [part.kl for part in parts if part.kl is not None]
    kl = min(known) if known else None
    result = replace(parts[0], values=values, khat=worst, ess=ess, kl=kl)
    warn_if_unreliable(result)
    return result


def _as_pandas(data: Any) -> Any:
    import pandas

    if isinstance(data, Tensor):
        return pandas.DataFrame(data.reshape(len(data), -1).numpy())
    return data if isinstance(data, pandas.DataFrame) else data.to_pandas()


def warn_if_unreliable(result: Imputations, stacklevel: int = 4) -> None:
    """Warn if rows are flagged, or if the latents hold next to nothing."""
    if result.kl is not None and result.kl < COLLAPSED:
        warnings.warn(
            f"The latents hold next to nothing about the observed cells (KL {result.kl:.2f} nats): imputations are"
            " draws from each column by itself, and associations between columns are lost. Train for more epochs, or"
            " look at `pv.latents.use` and `pv.diagnose`.",
            UnreliableWarning,
            stacklevel=stacklevel,
        )
    if flagged := int(result.flagged.sum()):
        warnings.warn(
            f"{flagged:,} of {len(result.observed):,} rows have a Pareto k-hat above the threshold and fewer than"
            f" {pareto.MIN_EFFECTIVE} effective candidates, or an unknown one: their imputations follow the guide more"
            " than the posterior. Raise num_candidates, or train a more flexible guide.",
            UnreliableWarning,
            stacklevel=stacklevel,
        )
