"""Predictive checks: could the model have made these data?

`tails` has the tail probabilities of statistics and the whole check, `ready` the statistics checked by default, and
`transforms` the probability integral transforms (PIT values) and coverage.
"""

from pyro_vae.criticism.checks.tails import Checks, StatisticCheck, check
from pyro_vae.criticism.checks.transforms import PIT, pit

__all__ = ["PIT", "Checks", "StatisticCheck", "check", "pit"]
