"""Rubin's rules: the results of one analysis of several imputations, pooled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from pyro_vae.arguments import is_number
from pyro_vae.data.tensors import as_tensor, check_finite
from pyro_vae.imputation.estimates import read_estimates
from pyro_vae.imputation.wald import ROUNDING, WaldTest, observed_df, wald_test
from pyro_vae.runtime.display import Shown

__all__ = ["Pooled", "pool"]


@dataclass(frozen=True, repr=False)
class Pooled(Shown):
    """Estimates from m imputations, pooled by Rubin's rules; all tensors are () for one number, else (p,).

    Attributes:
        estimate: the mean over imputations.
        within: the mean of the squared standard errors: the variance if no cell were missing.
        between: the variance of the estimates over imputations.
        num_imputations: m.
        complete_df: the degrees of freedom that the analysis of complete data has, infinity if it was not given.
        names: names of the parameters, if they have any.
        within_covariance: the mean of the covariance matrices, (p, p), if these were given.
        between_covariance: the covariance matrix of the estimates over imputations, (p, p), likewise.
    """

    estimate: Tensor
    within: Tensor
    between: Tensor
    num_imputations: int
    complete_df: float = math.inf
    names: tuple[str, ...] | None = None
    within_covariance: Tensor | None = None
    between_covariance: Tensor | None = None

    @property
    def total(self) -> Tensor:
        """The variance of the pooled estimate: within + (1 + 1/m) between."""
        return self.within + self._extra

    @property
    def standard_error(self) -> Tensor:
        """The root of the total variance."""
        return self.total.sqrt()

    @property
    def covariance(self) -> Tensor:
        """The covariance matrix of the pooled estimates, (p, p), whose diagonal is `total`.

        Raises:
            ValueError: if the variances of the imputations were not covariance matrices.
        """
        within, between = self._matrices()
        return within + (1 + 1 / self.num_imputations) * between

    @property
    def relative_increase(self) -> Tensor:
        """The relative increase of the variance that is due to missing cells; mice calls it `riv`."""
        return self._extra / self.within

    @property
    def share_due_to_missing(self) -> Tensor:
        """The share of the total variance that is due to missing cells; mice calls it `lambda`."""
        return self._extra / self.total

    @property
    def df(self) -> Tensor:
        """Degrees of freedom of the t distribution of (estimate - truth) / standard error.

        They are those of Barnard and Rubin (1999) if `complete_df` is given, and of Rubin (1987) otherwise. Where all
        imputations agree, the missing cells do not matter: `complete_df`, or infinity.
        """
        share = self.share_due_to_missing
        many = (self.num_imputations - 1) / share.square()
        if math.isinf(self.complete_df):
            return many
        observed = observed_df(self.complete_df) * self.within / self.total
        return torch.where(share == 0, self.complete_df, 1 / (1 / many + 1 / observed))

    @property
    def fraction_missing(self) -> Tensor:
        """The fraction of the information about a parameter that is missing; mice calls it `fmi`.

        It is (r + 2 / (df + 3)) / (1 + r) of the relative increase r, and 0 where all imputations agree.
        """
        r = self.relative_increase
        return torch.where(r == 0, 0.0, (r + 2 / (self.df + 3)) / (1 + r))

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """The lower and the upper ends of confidence intervals.

        Raises:
            ValueError: if `level` does not lie between 0 and 1.
        """
        from scipy.stats import t

        if not is_number(level) or not 0 < level < 1:
            raise ValueError(f"level must lie between 0 and 1; got {level!r}. Pass e.g. level=0.95.")
        width = torch.as_tensor(t.isf((1 - level) / 2, self.df.numpy())) * self.standard_error
        return self.estimate - width, self.estimate + width

    def p_value(self, null: Any = 0.0) -> Tensor:
        """Two-sided p-values of the hypothesis that a parameter is `null`, one number or one for each parameter.

        Raises:
            ValueError: if there is not one finite number, or one for each parameter.
        """
        from scipy.stats import t

        distance = (self.estimate - self._hypothesis(null)).abs() / self.standard_error
        return torch.as_tensor(2 * t.sf(distance.numpy(), self.df.numpy()))

    def wald(self, null: Any = None) -> WaldTest:
        """Test all parameters together against `null`, zeros if not given, by D1 of Li, Raghunathan and Rubin (1991).

        The test takes the fraction of missing information to be the same for all parameters. The degrees of freedom of
        its denominator are those of Reiter (2007) if `complete_df` is given. Where these do not exist, with
        p (m - 1) <= 4 or few degrees of freedom, they are those of Li, Raghunathan and Rubin, but at most as many as
        complete data have.

        Raises:
            ValueError: if the variances of the imputations were not covariance matrices, if their mean is singular, or
                if there is not one finite number, or one for each parameter.
        """
        within, between = self._matrices()
        distance = self.estimate - self._hypothesis(0.0 if null is None else null)
        return wald_test(distance, within, between, self.num_imputations, self.complete_df)

    def lines(self, level: float = 0.95) -> list[dict[str, Any]]:
        """Lines of the table, one for each parameter, with a confidence interval of this level."""
        low, high = self.interval(level)
        columns = {
            "estimate": self.estimate,
            "standard error": self.standard_error,
            "df": self.df,
            f"{100 * level:g} % from": low,
            "to": high,
            "p-value": self.p_value(),
            "fraction missing": self.fraction_missing,
        }
        names = self.names or tuple(str(i) for i in range(self.estimate.numel()))
        numbers = {title: values.reshape(-1).tolist() for title, values in columns.items()}
        return [
            {"parameter": name} | {title: values[i] for title, values in numbers.items()}
            for i, name in enumerate(names)
        ]

    def readable_lines(self) -> list[dict[str, Any]]:
        """The lines of the table with three digits of the standard error in each number."""
        return [_readable(line) for line in self.lines()]

    def _headline(self) -> str:
        count = f"{self.estimate.numel()} parameters" if self.estimate.dim() else f"estimate {float(self.estimate):.4g}"
        return f"{count}, pooled over {self.num_imputations} imputations"

    def __str__(self) -> str:
        from pyro_vae import reporting

        known = f" Complete data: {self.complete_df:g} degrees of freedom."
        if math.isinf(self.complete_df):
            known = " The sample is taken to be large: complete_df was not given."
        return (
            f"{reporting.table(self.readable_lines())}\n"
            f"Rubin's rules over {self.num_imputations} imputations; p-values against 0.{known}"
        )

    def to_pandas(self) -> Any:
        """The table as a pandas frame, with the parts of the variance (needs pandas)."""
        import pandas as pd

        frame = pd.DataFrame(self.lines()).set_index("parameter")
        for name in ("within", "between", "total", "relative_increase", "share_due_to_missing"):
            frame[name.replace("_", " ")] = getattr(self, name).reshape(-1).numpy()
        return frame

    @property
    def _extra(self) -> Tensor:
        """The variance due to missing cells; exactly 0 where imputations differ by rounding only."""
        agree = self.between.sqrt() <= ROUNDING * self.estimate.abs()
        return torch.where(agree, 0.0, (1 + 1 / self.num_imputations) * self.between)

    def _matrices(self) -> tuple[Tensor, Tensor]:
        if self.within_covariance is None or self.between_covariance is None:
            raise ValueError(
                "variances must be covariance matrices (m, p, p) for questions about several parameters together; got"
                f" squared standard errors of {self.estimate.numel()}. Pass the covariance matrix of each imputation."
            )
        return self.within_covariance, self.between_covariance

    def _hypothesis(self, null: Any) -> Tensor:
        values = as_tensor(null, "null").to("cpu", torch.float64)
        check_finite("null", values)
        if values.dim() and values.shape != self.estimate.shape:
            raise ValueError(
                f"null must be one number, or one for each parameter, of shape {tuple(self.estimate.shape)}; got shape"
                f" {tuple(values.shape)}. Give one for each parameter."
            )
        return values


def pool(
    estimates: Any, variances: Any, *, complete_df: float | None = None, names: Sequence[str] | None = None
) -> Pooled:
    """Pool the estimates of m imputations by Rubin's rules.

    Args:
        estimates: one number for each imputation, (m,), or a vector of parameters, (m, p): lists, arrays, tensors, a
            pandas frame with a row for each imputation and a column for each parameter, or a list of pandas series.
        variances: squares of the standard errors, not standard errors, in the same shape; or, for vectors, a
            covariance matrix for each imputation, (m, p, p). Frames and series are aligned with the estimates by name.
        complete_df: degrees of freedom of the analysis if no cell were missing, e.g. rows minus coefficients of a
            linear regression; mice calls it `dfcom`. Without it, the sample is taken to be large.
        names: names of the parameters; by default those of a frame or of series.

    Raises:
        TypeError: if estimates or variances are not numbers, or names not text.
        ValueError: if there are fewer than two imputations, if a number is not finite, if shapes or names do not match,
            if variances are negative, zero in all imputations, or not covariance matrices, or if `complete_df` is not
            positive.

    References:
        *Multiple Imputation for Nonresponse in Surveys* (Rubin, 1987)
        *Small-Sample Degrees of Freedom with Multiple Imputation* (Barnard, Rubin, 1999)
        *Large-Sample Significance Levels from Multiply Imputed Data Using Moment-Based Statistics and an F Reference
        Distribution* (Li, Raghunathan, Rubin, 1991)
        *Small-Sample Degrees of Freedom for Multi-Component Significance Tests with Multiple Imputation for Missing
        Data* (Reiter, 2007)

    Example:
        >>> print(pool([1.1, 0.9, 1.0, 1.2], [0.04, 0.05, 0.04, 0.05], complete_df=30, names=["age"]))
        parameter  estimate  standard error    df  95 % from     to  p-value  fraction missing
        age           1.050           0.257  11.7      0.489  1.611   0.0016             0.409
        Rubin's rules over 4 imputations; p-values against 0. Complete data: 30 degrees of freedom.
    """
    degrees = _complete_df(complete_df)
    read, squares, found = read_estimates(estimates, variances, names)
    mean, within_covariance, between_covariance = read.mean(0), None, None
    if squares.dim() == 3:
        within_covariance = (squares.mean(0) + squares.mean(0).mT) / 2
        between_covariance = (read - mean).mT @ (read - mean) / (len(read) - 1)
        squares = torch.diagonal(squares, dim1=1, dim2=2)
    return Pooled(
        estimate=mean,
        within=squares.mean(0),
        between=read.var(0),
        num_imputations=len(read),
        complete_df=degrees,
        names=found,
        within_covariance=within_covariance,
        between_covariance=between_covariance,
    )


def _complete_df(value: Any) -> float:
    if value is None:
        return math.inf
    if not isinstance(value, Real) or isinstance(value, bool) or not float(value) > 0:
        raise ValueError(
            f"complete_df must be a positive number; got {value!r}. Pass the degrees of freedom of complete data, or"
            " leave it out."
        )
    return float(value)


def _readable(line: dict[str, Any]) -> dict[str, Any]:
    """A line of the table whose numbers have three digits of the standard error."""
    digits = min(max(2 - math.floor(math.log10(line["standard error"])), 0), 15)
    places = {"df": 1, "fraction missing": 3}
    shown: dict[str, Any] = {}
    for title, value in line.items():
        if isinstance(value, str) or math.isinf(value):
            shown[title] = value
        else:
            shown[title] = Decimal(f"{value:.2g}" if title == "p-value" else f"{value:.{places.get(title, digits)}f}")
    return shown
