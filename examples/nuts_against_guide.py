"""DOC

"""

from __future__ import annotations

import argparse
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

EFFECT = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])  # of coaching, in points
FIELDS = {"sigma": torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18]), "school": torch.arange(8)}


class EightSchools(pv.LatentVariableModel):
    """x_i ~ N(theta_i, sigma_i), theta_i ~ N(mu, tau); mu and tau, outside the plate, are latents of all rows."""

    def __init__(self, centred: bool = True) -> None:
        super().__init__()
        self.centred = centred
        for name, shape in (("mu", ()), ("tau", ()), ("school", (8,))):
            setattr(self, f"{name}_loc", nn.Parameter(torch.zeros(shape)))
            setattr(self, f"{name}_scale", PyroParam(torch.ones(shape), constraint=dist.constraints.positive))

    def model(self, x: Tensor | None = None, *, rows: int | None = None, sigma: Tensor, **batch: Tensor) -> Tensor:
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = pyro.sample("tau", dist.HalfCauchy(5.0))
        with pyro.plate("data", len(sigma)):
            if self.centred:
                theta = pyro.sample("theta", dist.Normal(mu, tau))
            else:
                theta = mu + tau * pyro.sample("eta", dist.Normal(0.0, 1.0))
            return pyro.sample("x", dist.Normal(theta, sigma), obs=x)

    def guide(self, x: Tensor, *, school: Tensor, **batch: Tensor) -> None:
        pyro.sample("mu", dist.Normal(self.mu_loc, self.mu_scale))
        pyro.sample("tau", dist.LogNormal(self.tau_loc, self.tau_scale))
        with pyro.plate("data", len(x)):  # rows come in any order: a school finds its parameters by its number
            own = dist.Normal(self.school_loc[school], self.school_scale[school])
            pyro.sample("theta" if self.centred else "eta", own)


def first_school(draws: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """log tau and theta_1 of draws (S, ...), in either form."""
    mu, tau = draws["mu"].flatten(), draws["tau"].flatten()
    return tau.log(), draws["theta"][:, 0] if "theta" in draws else mu + tau * draws["eta"][:, 0]


def moments(draws: dict[str, Tensor]) -> str:
    of_mu, of_log_tau = draws["mu"].flatten(), draws["tau"].flatten().log()
    return "".join(f"{part.mean():10.2f}{part.std():7.2f}" for part in (of_mu, of_log_tau))


def rows_of_a_vae(epochs: int, num_samples: int) -> pv.calibration.AgainstNUTS:
    digits = pv.datasets.load("digits")
    likelihood, net = pv.likelihoods.Binomial(digits.event_shape, total_count=16), pv.nets.MLP(hidden=(128,))
    vae = pv.VAE(likelihood=likelihood, prior=pv.priors.Normal(4), encoder=net, decoder=net, seed=0)
    vae.fit(digits.train, epochs=epochs, seed=0)
    few = digits.test.x[:3]
    found = pv.calibration.against_nuts(vae, few, num_samples=num_samples, warmup=num_samples // 2, seed=1)
    print("\nA VAE of digits, three test rows: mean and deviation of each latent")
    print(f"{'row, latent':<14}{'guide':>14}{'NUTS':>16}{'R-hat':>9}")
    for row in range(len(few)):
        for i, name in enumerate(found.names):
            guide = f"{found.guide_mean[row, i]:8.2f}{found.guide_scale[row, i]:6.2f}"
            nuts = f"{found.nuts_mean[row, i]:10.2f}{found.nuts_scale[row, i]:6.2f}"
            print(f"{row}, {name:<11}{guide}{nuts}{found.rhat[row, i]:9.3f}")
    print(found)
    return found


def main(args: argparse.Namespace) -> None:
    epochs, num_samples, steps, draws = (2, 20, 20, 100) if args.smoke else (100, 400, 2000, 20_000)
    figure, (left, *others) = plt.subplots(1, 3, figsize=(15, 4.8), layout="constrained")
    rows_of_a_vae(epochs, num_samples).plot(left).set_title("three digits, four latents each")

    print("\nEight schools: mean and deviation under each; nats for all eight rows together, Monte Carlo error in brackets")
    print(f"{'':<22}{'mu':>10}{'':>7}{'log tau':>10}{'':>7}{'ELBO':>9}{'log p(x)':>17}{'k-hat':>8}")
    guides, data = {}, pv.Rows(EFFECT, FIELDS)
    rate = pv.schedules.Cosine(0.03, 1e-4, epochs=steps)
    for name, centred in (("guide, centred", True), ("guide, non-centred", False)):
        model = EightSchools(centred)
        options = {"fields": ("x", *FIELDS), "learning_rate": rate, "seed": 0}
        model.fit(data, elbo=pv.elbos.ELBO(num_particles=10), epochs=steps, batch_size=8, **options)
        evidence = model.log_likelihood(EFFECT, num_particles=draws, seed=1, **FIELDS)
        bound = model.elbo(EFFECT, num_particles=draws, seed=1, **FIELDS).bound.item()
        guides[name] = model.posterior_draws(EFFECT, num_samples=max(num_samples, 1000), seed=2, **FIELDS)
        score = f"{evidence.estimate.item():.2f} ({evidence.standard_error.item():.2f})"
        print(f"{name:<22}{moments(guides[name])}{bound:9.2f}{score:>17}{evidence.khat.item():8.2f}")
        mended = model.posterior_draws(EFFECT, num_samples=max(num_samples, 1000), resample=draws, seed=2, **FIELDS)
        print(f"{'  resampled':<22}{moments(mended)}")
    pyro.set_rng_seed(3)
    chain = MCMC(NUTS(model.model), 2 * num_samples, warmup_steps=num_samples // 2, disable_progbar=True)
    chain.run(EFFECT, **FIELDS)
    nuts = chain.get_samples()
    print(f"{'NUTS, non-centred':<22}{moments(nuts)}")

    for ax, (name, drawn) in zip(others, guides.items(), strict=True):
        ax.plot(*first_school(nuts), ".", color=plots.GREY, markersize=3, label="NUTS")
        ax.plot(*first_school({site: value[:1000] for site, value in drawn.items()}), ".", markersize=3, label=name)
        ax.set(xlabel="log tau", ylabel="theta of the first school (points)", title=f"eight schools: {name}")
        ax.set(xlim=(-4, 4.5), ylim=(-25, 50))
        ax.legend(frameon=False, loc="upper left", markerscale=3)
    args.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out / "nuts_against_guide.png", dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see whether it runs")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder for the figure")
    main(parser.parse_args())
