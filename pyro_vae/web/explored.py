"""One run as the explorer asks about it: rows with their posteriors, and p(x | z) at a point of the latent space."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.arguments import is_integer
from pyro_vae.criticism.latents.conditions import conditions
from pyro_vae.datasets import Splits
from pyro_vae.models import VAE
from pyro_vae.runtime.random import seeded
from pyro_vae.web.choices import as_number, choices
from pyro_vae.web.covariates import in_words, reached
from pyro_vae.web.latents import LEVELS, check_real_latents, labels_of, plane_of, posterior, prior_moments
from pyro_vae.web.views import RowView, view_of

__all__ = ["Explored", "Posterior", "Slider"]

MOST_ROWS, MOST_SLIDERS = 1000, 16
DRAWN = 200  # draws from the posterior of a row that are in the map
REACH = 4.0  # standard deviations of the prior that a slider reaches either way, at least
_ONE_AT_A_TIME = threading.Lock()  # a call of a model sets Pyro's and torch's global state, and sets it back


@dataclass(frozen=True)
class Slider:
    """One latent that can be moved: its number, and the ends and the step of its slider."""

    dim: int
    low: float
    high: float
    step: float


@dataclass(frozen=True)
class Posterior:
    """A test row and q(z | x).

    Attributes:
        mean: the posterior mean, (D,).
        low: the lower ends of the central 90 % intervals of the latents, (D,), by 1,000 draws.
        high: their upper ends, (D,).
        drawn: draws in the plane of the map, (200, 2).
        data: the row, as it is shown.
        again: E[x | z] at the posterior mean, under the row's own covariates, as it is shown.
    """

    mean: Tensor
    low: Tensor
    high: Tensor
    drawn: Tensor
    data: RowView
    again: RowView


class Explored:
    """A run whose latents can be explored; calls may come from several threads.

    Args:
        name: the name of the run.
        vae: its model.
        splits: its data, of which the first 1,000 test rows can be chosen.

    Raises:
        NotImplementedError: if the latents are not one vector of real numbers for each row.
    """

    def __init__(self, name: str, vae: VAE, splits: Splits) -> None:
        check_real_latents(vae, f"RUN {name!r}")
        self.name, self.vae = name, vae
        self._last: tuple[int, Posterior] | None = None  # of the row that was asked for last
        self.test_rows = len(splits.test)
        self.rows = splits.test.subset(slice(0, MOST_ROWS)).drawn(vae.like)
        self.digest: str = splits.test.digests()["x"]
        with _ONE_AT_A_TIME:
            self.view, self.labels = view_of(vae, self.rows), labels_of(self.rows)
            self.means, _ = posterior(vae, self.rows, num_draws=1)
            self.covariates, self.given = conditions(vae, self.rows), in_words(vae, self.rows)
            self.choices = choices(vae, splits.train)
            mean, scale = prior_moments(vae, self.covariates)
        self.plane = plane_of(self.means)
        order = self.means.var(0, correction=0).argsort(descending=True, stable=True)[:MOST_SLIDERS]
        lowest, highest = (getattr(self.means, end)(0).values for end in ("min", "max"))
        lows, highs = torch.minimum(mean - REACH * scale, lowest), torch.maximum(mean + REACH * scale, highest)
        self.sliders = [_slider(dim, float(lows[dim]), float(highs[dim])) for dim in sorted(order.tolist())]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def about(self) -> str:
        """The model in one line."""
        parts = self.vae.prior, self.vae.family
        prior, guide = (type(part).__name__ for part in parts)
        count = self.means.shape[1]
        kept = "" if len(self.sliders) == count else f", of which the {len(self.sliders)} that vary most can be moved"
        known = "" if self.vae.covariates is None else f"; covariates reach {reached(self.vae)}"
        return f"{count} latent{'' if count == 1 else 's'}{kept}; prior {prior}, guide {guide}{known}"

    def check_row(self, number: Any) -> int | None:
        """The number of a row, or None if there is no such row."""
        return int(number) if is_integer(number) and 0 <= number < len(self) else None

    def posterior(self, row: int) -> Posterior:
        """A test row and its posterior.

        Raises:
            ValueError: if there is no such row.
        """
        if self.check_row(row) is None:
            raise ValueError(f"row must be 0 to {len(self) - 1}; got {row!r}. Choose one of these.")
        with _ONE_AT_A_TIME:
            if self._last is not None and self._last[0] == row:
                return self._last[1]
            one = self.rows.subset([row])
            mean, draws = posterior(self.vae, one)
            data = self.view.show(one.take(slice(None), like=self.vae.like)["x"])[0]
            again = self.view.show_means(self.vae.decode(mean, **self.under(row)))[0]
            low, high = (draws[:, 0].quantile(level, 0) for level in LEVELS)
            found = Posterior(mean[0], low, high, self.plane.project(draws[:DRAWN, 0]), data, again)
            self._last = row, found
        return found

    def point(self, row: int, values: list[Any]) -> Tensor:
        """The latents (1, D) that the sliders say; latents without a slider are those of the row.

        Args:
            row: number of a test row.
            values: the value of each slider; one that is no number is that of the row.
        """
        z = self.means[row].clone()
        for slider, value in zip(self.sliders, values, strict=True):
            number = as_number(value)
            if number is not None:
                z[slider.dim] = min(slider.high, max(slider.low, number))
        return z.unsqueeze(0)

    def under(self, row: int, values: Sequence[Any] = ()) -> dict[str, Tensor]:
        """The covariates of a row, (1, ...) each, with those that are chosen in the place of its own.

        Args:
            row: number of a test row.
            values: what a browser sent for each of `choices`; one that is no value of its covariate is that of the row.
        """
        found = {name: value[row : row + 1] for name, value in self.covariates.items()}
        for one, value in zip(self.choices, values, strict=False):
            number = one.read(value)
            if number is not None:
                found[one.name] = torch.full_like(found[one.name], number)
        return found

    def covariates_at(self, row: int) -> list[float | int | None]:
        """What the page has for each of `choices` at a row."""
        return [one.start(self.rows.field(one.name)[row]) for one in self.choices]

    def decode(self, z: Tensor, seed: int, fields: Mapping[str, Tensor] | None = None) -> tuple[RowView, RowView]:
        """E[x | z] and a draw of x given z, for latents (1, D) and covariates (1, ...)."""
        with _ONE_AT_A_TIME:
            distribution = self.vae.decode(z, **(fields or {}))
            with seeded(seed), torch.no_grad():
                drawn = distribution.sample()
            return self.view.show_means(distribution)[0], self.view.show(drawn)[0]

    def at_row(self, row: int) -> list[float]:
        """The values of the sliders at the posterior mean of a row, rounded to their steps."""
        return [
            round(slider.low + slider.step * round((float(self.means[row, slider.dim]) - slider.low) / slider.step), 10)
            for slider in self.sliders
        ]


def _slider(dim: int, low: float, high: float) -> Slider:
    """A slider with ends and a step that are round numbers, and 120 to 300 steps."""
    rough = max(high - low, 1e-3) / 300
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((factor * power for factor in (1, 2, 5) if factor * power >= rough), 10 * power)
    first, last = math.floor(low / step), math.ceil(high / step)
    return Slider(dim, round(first * step, 10), round(last * step, 10), round(step, 10))
