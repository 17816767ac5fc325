"""The table of a run: one line for each epoch."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from pyro_vae.arguments import positive_integer, positive_number
from pyro_vae.runtime.display import html_table, summary
from pyro_vae.training.convergence import NEGLIGIBLE, Convergence, convergence_of

__all__ = ["History"]

MOST_SHOWN = 10  # epochs at each end of a long history in a notebook


class History:
    """Bound and parts on training and validation rows, epoch by epoch, in nats per row, and seconds.

    Columns: `epoch`, `train_bound`, `train_reconstruction`, `train_kl`, `train_objective`, `valid_bound`,
    `valid_reconstruction`, `valid_kl`, `learning_rate`, `skipped` (the number of steps left out because something was
    not finite), `seconds`. A cell is None where there is no such number: without validation rows, or with an estimator
    that computes nothing but its loss. `train_bound` and `valid_bound` are the bound that was trained, with every
    weight on the KL removed; `train_objective` is what was maximized, weights and penalties included; the parts are
    those of the ELBO.

    Attributes:
        rows: the rows of the table, one dictionary for each epoch.
        interrupted: whether Ctrl-C ended the last run.

    Example:
        >>> history = History()
        >>> history.append(epoch=1, train_bound=-3.0)
        >>> history["train_bound"], len(history)
        ([-3.0], 1)
    """

    COLUMNS = (
        "epoch",
        "train_bound",
        "train_reconstruction",
        "train_kl",
        "train_objective",
        "valid_bound",
        "valid_reconstruction",
        "valid_kl",
        "learning_rate",
        "skipped",
        "seconds",
    )

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.interrupted = False

    def append(self, **values: Any) -> None:
        """Add an epoch; columns that are not given are None."""
        self.rows.append(dict.fromkeys(self.COLUMNS) | values)

    def __getitem__(self, column: str) -> list[Any]:
        return [row[column] for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)

    def __repr__(self) -> str:
        last = {name: value for name, value in self.rows[-1].items() if value is not None} if self.rows else {}
        return f"History({len(self)} epochs" + "".join(f", {name}={value:.4g}" for name, value in last.items()) + ")"

    def _repr_html_(self) -> str:
        columns = [name for name in self.COLUMNS if any(row[name] is not None for row in self.rows)]
        chosen = self.rows if len(self) <= 2 * MOST_SHOWN else [*self.rows[:MOST_SHOWN], None, *self.rows[-MOST_SHOWN:]]
        lines = [["..." if row is None else _cell(row[name]) for name in columns] for row in chosen]
        return f"<p>History of {len(self)} epochs</p>{html_table(columns, lines)}"

    def convergence(self, *, since: int = 1, negligible: float = NEGLIGIBLE) -> Convergence:
        """Whether training had converged: the slope of the bound against its noise, and the gain still to be expected.

        The validation bound decides, if the last epoch has one: the training bound may rise long after the model has
        begun to fit the noise of its rows. After early stopping the whole run is judged, the epochs after the best one
        included: patience that is short for the noise ends runs whose bound still rises. A bound that is flat because a
        schedule has lowered the learning rate looks converged; `note` says so then.

        Args:
            since: the first epoch that counts, e.g. that of a later `fit` with another estimator or other rows.
            negligible: gain, in nats per row, up to which a run is called converged though its bound rises.

        Raises:
            ValueError: if an argument is not positive.

        Example:
            >>> history = History()
            >>> for epoch in range(1, 21):
            ...     history.append(epoch=epoch, train_bound=-100.0 / epoch)
            >>> found = history.convergence()
            >>> found.converged, round(found.expected_gain, 1)  # exactly 100 / 20 - 100 / 40
            (False, 2.5)
        """
        rows = self.rows[positive_integer("since", since) - 1 :]
        positive_number("negligible", negligible)
        column = "valid_bound" if rows and rows[-1]["valid_bound"] is not None else "train_bound"
        bounds = [row[column] for row in rows]
        return convergence_of(
            bounds, column, negligible=negligible, rates=[row["learning_rate"] for row in rows], first=since
        )

    def to_csv(self) -> str:
        """The table as text, with numbers in full precision."""
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, self.COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return buffer.getvalue()

    @classmethod
    def from_csv(cls, text: str) -> History:
        """The table that `to_csv` wrote.

        Raises:
            ValueError: if a column is absent, or a cell is not a number.
        """
        history, integers = cls(), ("epoch", "skipped")
        reader = csv.DictReader(io.StringIO(text))
        if tuple(reader.fieldnames or ()) != cls.COLUMNS:
            raise ValueError(
                f"The columns of a history must be {', '.join(cls.COLUMNS)}; got {reader.fieldnames!r}. Pass what"
                " `to_csv` wrote."
            )
        for row in reader:
            try:
                cells = {name: float(cell) if cell else None for name, cell in row.items()}
                whole = {name: int(row[name]) for name in integers if row[name]}
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"The cells of a history must be numbers; got {row!r}. Pass what `to_csv` wrote."
                ) from error
            history.append(**cells | whole)
        return history

    def to_pandas(self) -> Any:
        """The table as a pandas frame (needs pandas)."""
        import pandas as pd

        return pd.DataFrame(self.rows, columns=list(self.COLUMNS))

    def plot(self, ax: Any = None) -> Any:
        """Draw the training curve; returns matplotlib axes."""
        from pyro_vae import plots

        return plots.training_curve(self, ax=ax)


def _cell(value: float | None) -> str:
    return "" if value is None else summary(value)
