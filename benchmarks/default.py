"""How the default model of `pyro-vae train` was chosen: candidates on scikit-learn's digits, without the test rows.

    python benchmarks/default.py                         # all candidates, two seeds: half an hour
    python benchmarks/default.py --candidates default    # a minute or two

A candidate is the default with other options of `train`, or with other arguments of the likelihood. Each is trained on
the training rows, and stopped by the validation rows. Reported are, for each seed: log p(x) of the validation rows by
annealing (nats per row), what importance sampling with 1,000 draws loses to it, how many of five statistics disagree
with the model (`pv.check`) on the validation rows and on each third of the training rows, what central intervals of
50, 80, 90 and 95 % cover, whether training had converged, and the seconds of training, compilation included.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
import warnings
from typing import Any

import pyro_vae as pv
from pyro_vae.cli import choices
from pyro_vae.cli.options import parser as command_line
from pyro_vae.data.batches import Rows
from pyro_vae.evaluation import UnreliableWarning

# Arguments of `train`, and of the likelihood that the digits suggest.
CANDIDATES: dict[str, tuple[list[str], dict[str, Any]]] = {
    "default": ([], {}),
    "16 latents": (["--latent-dim", "16"], {}),
    "10 latents": (["--latent-dim", "10"], {}),
    "ridge penalty of .4": (["--ridge", "0.4"], {}),
    "no ridge penalty": (["--ridge", "0"], {}),
    "no dropout": (["--dropout", "0"], {}),
    "neither": (["--dropout", "0", "--ridge", "0"], {}),
    "a dispersion for each cell": ([], {"dispersion": "per_dimension"}),
    "binomial": (["--likelihood", "binomial"], {}),
    "5 particles": (["--num-particles", "5"], {}),
    "one normal as prior": (["--prior", "normal"], {}),
    "normal guide": (["--guide", "normal"], {}),
}
LEVELS = (0.5, 0.8, 0.9, 0.95)


def fitted(arguments: list[str], of_likelihood: dict[str, Any], seed: int) -> tuple[pv.VAE, pv.datasets.Splits, float]:
    """The model, the data and the seconds of training."""
    options = command_line().parse_args(["train", *arguments, "--seed", str(seed)])
    splits = pv.datasets.load(options.data)
    splits = dataclasses.replace(splits, likelihood_options=splits.likelihood_options | of_likelihood)
    vae, start = choices.model(options, splits), time.perf_counter()
    vae.fit(splits.train, **choices.training(options, splits), progress=False)
    return vae, splits, time.perf_counter() - start


def line(vae: pv.VAE, splits: pv.datasets.Splits) -> list[str]:
    """The cells of the table that describe a fitted model."""
    third = len(splits.train) // 3
    parts: list[Rows] = [splits.valid, *(splits.train.subset(slice(i * third, (i + 1) * third)) for i in range(3))]
    checks = [pv.check(vae, rows, num_samples=100, seed=0) for rows in parts]
    scores = [vae.log_likelihood(splits.valid, method=method, seed=0).mean() for method in ("importance", "ais")]
    covered = [f"{100 * one['coverage']:.1f}" for one in checks[0].pit.overall(LEVELS)]
    return [
        f"{scores[1].estimate:.2f}",
        f"{scores[1].estimate - scores[0].estimate:.2f}",
        " ".join(str(len(found.disagreeing)) for found in checks),
        " ".join(covered),
        "no" if vae.history.convergence().advice else "yes",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", nargs="+", choices=list(CANDIDATES), default=list(CANDIDATES))
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    warnings.simplefilter("ignore", UnreliableWarning)  # the column of what importance sampling loses says it
    print("| candidate | seed | log p(x) | loss | disagree | covered | converged | epochs | seconds |")
    print("| --- " * 9 + "|", flush=True)
    for name in options.candidates:
        for seed in range(options.seeds):
            vae, splits, seconds = fitted(*CANDIDATES[name], seed)
            cells = [name, str(seed), *line(vae, splits), str(len(vae.history)), f"{seconds:.0f}"]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
