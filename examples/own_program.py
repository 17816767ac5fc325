"""Your own Pyro program: a count model with two latents, written as `model` and `guide`, trained in three ways.

The model separates how much ink a digit has from where it is: each row has a positive *amount* r of ink, and a code z
that says which share of it falls into which of the 64 cells:

    r ~ LogNormal(m, s),    z ~ N(0, I),    x_j | r, z ~ Poisson(r * share_j(z)),    the shares adding up to 1,

with m and s learned (empirical Bayes). A subclass of `pv.LatentVariableModel` can be trained, scored row by row, drawn
from and saved. Its programs are ordinary Pyro, and work with `pyro.infer` as well.

What to look for
- The table. `fit` with `ELBO` (by Monte Carlo), `fit` with Pyro's `TraceMeanField_ELBO` (KL in closed form), and plain
  `pyro.infer.SVI`: one model and one objective, so that the bounds differ only by the randomness of training.
- Left: the posterior mean of r is close to the total ink of the row, shrunk a little towards the prior.
- Middle and right, posterior predictive checks. Replicated totals agree with the data, since r determines them. But a
  cell holds at most 16 inked pixels, and Poisson variables are unbounded: use Binomial(16), as the other examples do.

Run it: `python own_program.py` (about a minute); `--smoke` only checks that it runs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from pyro.nn import PyroParam
from torch import Tensor, nn
from torch.nn.functional import softplus

import pyro_vae as pv


class InkModel(pv.LatentVariableModel):
    """How much ink and where. Its constructor's argument is kept under its own name: `pv.load` needs it."""

    def __init__(self, latent_dim: int = 8) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.m = nn.Parameter(torch.tensor(5.7))  # log of about 300 inked pixels
        self.s = PyroParam(torch.tensor(0.3), constraint=dist.constraints.positive)
        self.encoder = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 2 + 2 * latent_dim))
        self.decoder = nn.Sequential(nn.Linear(latent_dim, 256), nn.ReLU(), nn.Linear(256, 64))

    def model(self, x: Tensor | None = None, *, rows: int | None = None, **batch: Tensor) -> Tensor:
        with pyro.plate("data", rows if x is None else len(x)):
            amount = pyro.sample("amount", dist.LogNormal(self.m, self.s))
            z = pyro.sample("z", dist.Normal(torch.zeros(self.latent_dim), 1.0).to_event(1))
            rate = amount.unsqueeze(-1) * self.decoder(z).softmax(-1)
            return pyro.sample("x", dist.Poisson(rate + 1e-3).to_event(1), obs=x)  # 1e-3: no rate is ever exactly 0

    def guide(self, x: Tensor, **batch: Tensor) -> None:
        out = self.encoder(x / 16)
        loc, scale = out[..., 2:].chunk(2, -1)
        total = x.sum(-1)  # T ~ Poisson(r): log r is log T up to 1 / sqrt(T), which the network corrects
        with pyro.plate("data", len(x)):
            pyro.sample("amount", dist.LogNormal(total.log() + 0.1 * out[..., 0], softplus(out[..., 1]) / total.sqrt()))
            pyro.sample("z", dist.Normal(loc, softplus(scale)).to_event(1))


def train_by_svi(model: InkModel, x: Tensor, epochs: int) -> None:
    """The same programs without `fit`: Pyro's own loop, optimizer and global parameter store."""
    pyro.clear_param_store()
    svi = SVI(model.model, model.guide, pyro.optim.Adam({"lr": 1e-3}), loss=Trace_ELBO())
    for _ in range(epochs):
        for batch in x[torch.randperm(len(x))].split(128):
            svi.step(batch)


def main(args: argparse.Namespace) -> None:
    epochs, num_samples = (2, 10) if args.smoke else (150, 100)
    digits = pv.datasets.load("digits")
    train, test = (rows.x.float().flatten(1) for rows in (digits.train, digits.test))  # this program takes vectors
    estimators = {"fit, ELBO": pv.elbos.ELBO(), "fit, Pyro's TraceMeanField_ELBO": TraceMeanField_ELBO(), "SVI": None}
    print(f"\n{len(test)} test rows, nats per row (standard error over rows)")
    print(f"{'trained by':<33}{'ELBO':>16}{'KL':>9}{'log-likelihood':>19}{'exp(m)':>9}{'s':>7}")
    for name, elbo in estimators.items():
        torch.manual_seed(0)  # seed of the initial weights, and of all draws in SVI
        model = InkModel()
        if elbo is None:
            train_by_svi(model, train, epochs)
        else:
            model.fit(train, elbo=elbo, epochs=epochs, batch_size=128, seed=0)
        bound, evidence = model.elbo(test, seed=1), model.log_likelihood(test, num_particles=10 * num_samples, seed=1)
        cells = [f"{mean.estimate:.2f} ({mean.sampling_error:.2f})" for mean in (bound.mean(), evidence.mean())]
        print(f"{name:<33}{cells[0]:>16}{bound.kl.mean():9.2f}{cells[1]:>19}{model.m.exp():9.1f}{model.s:7.3f}")

    model.save(args.out / "own_program")
    model = pv.load(args.out / "own_program", InkModel)  # your own class has to be named: files hold data, not code
    amount = model.encode(test)["amount"].mean
    replicated = model.posterior_predictive(test, num_samples=num_samples, seed=2)  # (num_samples, 360, 64)
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    left.plot(test.sum(-1), amount, ".", markersize=4)
    left.axline((300, 300), slope=1, color="black", linewidth=0.8)
    left.set(xlabel="total ink of the row", ylabel="posterior mean of r", title="the amount of ink is recovered")
    for ax, what, statistic, bins in (
        (middle, "total ink of a row", lambda x: x.sum(-1), range(180, 451, 15)),
        (right, "largest cell of a row", lambda x: x.amax(-1), [size - 0.5 for size in range(10, 33)]),
    ):
        print(f"Mean {what}: observed {statistic(test).mean():.2f}, replicated {statistic(replicated).mean():.2f}")
        ax.hist(statistic(test), bins, density=True, alpha=0.6, label="observed")
        ax.hist(statistic(replicated).flatten(), bins, density=True, histtype="step", color="black", label="replicated")
        ax.set(xlabel=f"{what} (inked pixels)", ylabel="density", title=f"predictive check: {what}")
        ax.legend(frameon=False)
    figure.savefig(args.out / "own_program.png", dpi=120)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see whether it runs")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder for the figure")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(parse())
