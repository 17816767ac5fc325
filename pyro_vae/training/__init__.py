"""Training: `fitting.fit` is the entry point, and everything that it uses is in this package.

`options` checks what `fit` was called with, `first_batch` validates the programs, `state` is what a later `fit`
continues from, and `loop` runs epochs of steps and writes `history`. `step` says what a step is; `eager` runs the
programs in Python, and `compiled` as one compiled function. `nonfinite` explains NaN and infinity, `progress` shows
the run, `checkpoints` lets it survive being killed, and `convergence` says whether it had converged.
"""
