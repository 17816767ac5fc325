"""The table of a run: one line for each epoch."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

__all__ = ["History"]


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

    def to_csv(self) -> str:
        """The table as text, with numbers in full precision."""
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, self.COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return buffer.getvalue()

    def to_pandas(self) -> Any:
        """The table as a pandas frame (needs pandas)."""
        import pandas as pd

        return pd.DataFrame(self.rows, columns=list(self.COLUMNS))

    def plot(self, ax: Any = None) -> Any:
        """Draw the training curve; returns matplotlib axes."""
        from pyro_vae import plots

        return plots.training_curve(self, ax=ax)
