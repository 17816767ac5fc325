"""Guides compared with Markov chain Monte Carlo: a VAE of digits, and the eight schools, where rows share mu and tau.

The VAE has latents for each row: `calibration.against_nuts` draws those of three rows by NUTS. The eight schools are
a user's own Pyro program. Coaching in school i had the effect theta_i, measured as x_i:

    x_i ~ N(theta_i, sigma_i),  mu ~ N(0, 5),  tau ~ HalfCauchy(5),  centred: theta_i ~ N(mu, tau),
                                            non-centred: theta_i = mu + tau * eta_i with eta_i ~ N(0, 1)

Both guides have independent factors. There is one log p(x) and one k-hat for all eight rows together.

What to look for
- Digits: the three rows are test rows. Means differ by up to 0.3, nearly three posterior standard deviations.
- Centred: the smaller tau, the closer the theta_i: the posterior is a funnel. The guide fits its wide part: log tau is
  too large with far too small a standard deviation, k-hat is 0.9, and resampling by importance weights does not help.
- Non-centred: k-hat is 0.6, resampled draws agree with NUTS, and the estimate of log p(x) is 1.4 nats higher.

Run it: `python nuts_against_guide.py` (two minutes); `--smoke` is a quick test that it runs.

Reference: *Yes, but Did It Work?: Evaluating Variational Inference* (Yao et al., 2018), arXiv 1802.02538
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import MCMC, NUTS
from pyro.nn import PyroParam
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae import plots

EFFECT = torch.tensor([28.0, 8, -3, 7, -1, 1, 18, 12])  # of coaching on test scores, in points
FIELDS = {"sigma": torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18]), "school": torch.arange(8)}


class EightSchools(pv.LatentVariableModel):
    def __init__(self, centred: bool = True) -> None:
        super().__init__()
        self.centred, self.own = centred, "theta" if centred else "eta"
        for name, shape in (("mu", ()), ("tau", ()), ("school", (8,))):
            setattr(self, f"{name}_loc", nn.Parameter(torch.zeros(shape)))
            setattr(self, f"{name}_scale", PyroParam(torch.ones(shape), constraint=dist.constraints.positive))

    def model(self, x: Tensor | None = None, *, rows: int | None = None, sigma: Tensor, **batch: Tensor) -> Tensor:
        mu, tau = pyro.sample("mu", dist.Normal(0.0, 5.0)), pyro.sample("tau", dist.HalfCauchy(5.0))  # (K, 1) each
        with pyro.plate("data", len(sigma)):
            own = pyro.sample(self.own, dist.Normal(mu, tau) if self.centred else dist.Normal(0.0, 1.0))
            theta = own if self.centred else mu + tau * own
            return pyro.sample("x", dist.Normal(theta, sigma), obs=x)

    def guide(self, x: Tensor, *, school: Tensor, **batch: Tensor) -> None:
        pyro.sample("mu", dist.Normal(self.mu_loc, self.mu_scale))
        pyro.sample("tau", dist.LogNormal(self.tau_loc, self.tau_scale))
        with pyro.plate("data", len(x)):  # rows come in any order: school numbers pick the parameters
            pyro.sample(self.own, dist.Normal(self.school_loc[school], self.school_scale[school]))


def funnel(draws: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    mu, tau = draws["mu"].flatten(), draws["tau"].flatten()
    return tau.log(), draws["theta"][:, 0] if "theta" in draws else mu + tau * draws["eta"][:, 0]


def moments(draws: dict[str, Tensor]) -> str:
    return "".join(f"{f'{part.mean():.2f} ({part.std():.2f})':>15}" for part in (draws["mu"], draws["tau"].log()))


def main(args: argparse.Namespace) -> None:
    epochs, kept, steps, particles = (2, 10, 20, 100) if args.smoke else (100, 400, 2000, 20_000)
    warnings.simplefilter("ignore", pv.evaluation.UnreliableWarning)  # k-hat is in the table
    digits, nets = pv.datasets.load("digits"), {name: pv.nets.MLP(hidden=(128,)) for name in ("encoder", "decoder")}
    likelihood = pv.likelihoods.Binomial(digits.event_shape, total_count=16)
    vae = pv.VAE(likelihood=likelihood, prior=pv.priors.Normal(4), **nets, seed=0)
    vae.fit(digits.train, epochs=epochs, seed=0)
    found = pv.calibration.against_nuts(vae, digits.test.x[:3], num_samples=kept, warmup=kept // 2, seed=1)
    print("\nA VAE of digits, three test rows: mean (standard deviation) of each latent")
    for row in range(3):
        for who in ("guide", "nuts"):
            pairs = zip(getattr(found, f"{who}_mean")[row], getattr(found, f"{who}_scale")[row], strict=True)
            print(f"row {row}, {who:<6}" + "".join(f"{f'{mean:.2f} ({scale:.2f})':>15}" for mean, scale in pairs))
    print(found)
    figure, (left, *others) = plt.subplots(1, 3, figsize=(15, 4.8), layout="constrained")
    found.plot(left).set_title("three digits, four latents each")
    print("\nEight schools: mean (standard deviation) of latents; nats for all eight rows together (Monte Carlo error)")
    print(f"{'':<22}{'mu':>15}{'log tau':>15}{'ELBO':>9}{'log p(x)':>16}{'k-hat':>8}")
    guides, rate = {}, pv.schedules.Cosine(0.03, 1e-4, epochs=steps)
    for form, centred in (("centred", True), ("non-centred", False)):
        model, options = EightSchools(centred), {"epochs": steps, "batch_size": 8, "learning_rate": rate, "seed": 0}
        model.fit(pv.Rows(EFFECT, FIELDS), fields=("x", *FIELDS), elbo=pv.elbos.ELBO(num_particles=10), **options)
        given = {"num_particles": particles, "seed": 1, **FIELDS}
        score, bound = model.log_likelihood(EFFECT, **given), model.elbo(EFFECT, **given).bound.item()
        guides[form] = model.posterior_draws(EFFECT, num_samples=2 * kept, seed=2, **FIELDS)
        resampled = model.posterior_draws(EFFECT, num_samples=2 * kept, num_candidates=particles, seed=2, **FIELDS)
        text = f"{score.estimate.item():.2f} ({score.standard_error.item():.2f})"
        print(f"guide, {form:<15}{moments(guides[form])}{bound:9.2f}{text:>16}{score.khat.item():8.2f}")
        print(f"  resampled           {moments(resampled)}")
    pyro.set_rng_seed(3)  # plain Pyro: the models are ordinary Pyro programs
    chain = MCMC(NUTS(model.model), 2 * kept, warmup_steps=kept // 2, disable_progbar=True)
    chain.run(EFFECT, **FIELDS)
    print(f"NUTS, non-centred     {moments(nuts := chain.get_samples())}")
    for ax, (form, draws) in zip(others, guides.items(), strict=True):
        ax.plot(*funnel(nuts), ".", color=plots.GREY, markersize=4, label="NUTS")
        ax.plot(*funnel(draws), ".", color=plots.VALID, markersize=4, alpha=0.5, label="guide")
        ax.set(xlim=(-4, 4.5), ylim=(-20, 40), xlabel="log tau", ylabel="theta_1 (points)", title=f"schools, {form}")
        ax.legend(frameon=False, loc="upper left", markerscale=2)
    args.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out / "nuts_against_guide.png", dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see whether it runs")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder for the figure")
    main(parser.parse_args())
