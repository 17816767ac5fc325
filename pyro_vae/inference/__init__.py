"""Running a pair of Pyro programs, and what their log-probabilities say.

`pair` is what the other packages ask of a model, `programs` runs model and guide under particles, and `weights` records
the log-weights of a run (`LogWeights`), from which bounds, estimates and diagnostics are computed. `gradients` has the
coefficients of the gradient estimators, `refinement` improves q(z | x) row by row, `pareto` smooths importance weights,
and `chunks` divides rows and particles into pieces that fit into memory.
"""
