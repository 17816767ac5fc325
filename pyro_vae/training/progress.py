"""What shows a run while it trains."""

from __future__ import annotations

import sys
from typing import Any

from pyro_vae.training.history import History

__all__ = ["ProgressBar"]


class ProgressBar:
    """A bar over epochs, with the bound in nats and its two parts, in terminals and notebooks; elsewhere nothing.

    Args:
        epochs: how many epochs the run has.
    """

    def __init__(self, epochs: int) -> None:
        from tqdm.auto import tqdm

        disable = False if "ipykernel" in sys.modules else None  # None: where the output is no terminal
        self.bar: Any = tqdm(total=epochs, unit="epoch", disable=disable, dynamic_ncols=True)
        self.steps = 0

    def count_step(self) -> None:
        """Count a step, and show the count now and then."""
        self.steps += 1
        if self.steps % 20 == 0:
            self.bar.set_description_str(f"step {self.steps}")

    def show_epoch(self, history: History) -> None:
        """Show the bounds of the last epoch."""
        last = history.rows[-1]
        shown = {
            "bound": "train_bound",
            "reconstruction": "train_reconstruction",
            "KL": "train_kl",
            "validation bound": "valid_bound",
        }
        self.bar.set_postfix_str(
            ", ".join(f"{name} {last[key]:.2f}" for name, key in shown.items() if last[key] is not None)
        )
        self.bar.update()

    def close(self) -> None:
        """Leave the bar as it is."""
        self.bar.close()
