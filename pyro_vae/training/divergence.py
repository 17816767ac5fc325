"""Recognize a run whose guide runs away, so that the bound falls without limit."""

from __future__ import annotations

import copy
import math
from itertools import pairwise
from typing import Any

from torch import nn

__all__ = ["DivergenceWatch"]

EPOCHS = 5  # the KL rises in each of so many epochs after the best one; noise does not
NATS = 20.0  # per row: a fall of this size is no noise of training, whatever the units of the data
SHARE = 0.05  # of the best bound, which is far from 0 after a bad start
AT_ONCE = 100.0  # a fall this many times larger needs no further epoch


class DivergenceWatch:
    """Compares the bound of each epoch with the best, whose parameters it keeps.

    An estimator whose guide minimizes an estimate of an upper bound (`Estimator.guide_may_diverge`) has no worst guide:
    the estimate falls without limit where the guide leaves the posterior behind. The lower bound, which is reported,
    falls with it, and the KL rises by as much.

    Args:
        model: the model that is trained.
        name: the name of the estimator, for the message.
    """

    def __init__(self, model: nn.Module, name: str) -> None:
        self.model, self.name = model, name
        self.kls: list[float] = []  # of the best epoch and those after it
        self.best, self.best_parameters = -math.inf, copy.deepcopy(model.state_dict())

    def check(self, line: dict[str, Any]) -> None:
        """Note a line of the history.

        Raises:
            RuntimeError: if the run has diverged; the parameters of the best epoch are set back before.
        """
        bound, kl = line["train_bound"], line["train_kl"]
        if bound is None or kl is None:
            return
        if bound > self.best:
            self.best, self.kls, self.best_parameters = bound, [kl], copy.deepcopy(self.model.state_dict())
            return
        self.kls.append(kl)
        fall, limit = self.best - bound, max(NATS, SHARE * abs(self.best))
        last = self.kls[-EPOCHS - 1 :]
        rises = len(last) > EPOCHS and all(a < b for a, b in pairwise(last))
        if (rises and fall > limit) or (kl - self.kls[0] > fall / 2 and fall > AT_ONCE * limit):
            self.model.load_state_dict(self.best_parameters)
            raise RuntimeError(
                f"The bound must not fall without limit; got {bound:.6g} nats per row in epoch {line['epoch']} after"
                f" {self.best:.6g} at best, while the KL rose from {self.kls[0]:.4g} to {kl:.4g}: {self.name} drives"
                " the guide away from the posterior, where its estimate of the upper bound is far too low. The"
                " parameters are those of the best epoch. Start from a model trained with IWAE or ELBO, raise"
                " num_particles, lower learning_rate, or train by IWAE."
            )
