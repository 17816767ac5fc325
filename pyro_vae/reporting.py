"""What a run shows while it goes on, and tables in plain text."""

from __future__ import annotations

from typing import Any

from pyro_vae.training.history import History

__all__ = ["ProgressBar", "show", "table"]


class ProgressBar:
    """A bar over epochs with the bound in nats and its two parts; silent where there is no terminal."""

    def __init__(self, epochs: int) -> None:
        from tqdm.auto import tqdm

        self.bar: Any = tqdm(total=epochs, unit="epoch", disable=None, dynamic_ncols=True)
        self.steps = 0

    def batch(self) -> None:
        self.steps += 1
        if self.steps % 20 == 0:
            self.bar.set_description_str(f"step {self.steps}")

    def epoch(self, history: History) -> None:
        """Show the last row of the table."""
        last = history.rows[-1]
        shown = {
            "bound": "train_bound",
            "reconstruction": "train_reconstruction",
            "KL": "train_kl",
            "valid": "valid_bound",
        }
        self.bar.set_postfix_str(
            ", ".join(f"{name} {last[key]:.2f}" for name, key in shown.items() if last[key] is not None)
        )
        self.bar.update()

    def close(self) -> None:
        self.bar.close()


def show(text: str) -> None:
    """Print a report."""
    print(text)


def table(rows: list[dict[str, Any]]) -> str:
    """Rows of a table as aligned text: names to the left, numbers to the right."""
    columns = list(rows[0])
    text = [[_cell(row[column]) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in [columns, *text]) for i in range(len(columns))]
    left = [isinstance(rows[0][column], str) for column in columns]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if flush else cell.rjust(w) for cell, w, flush in zip(line, widths, left, strict=True)
        ).rstrip()
        for line in [columns, *text]
    )


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
