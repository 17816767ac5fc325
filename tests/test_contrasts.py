"""Contrasts against closed forms, quadrature and enumeration; lists of discoveries; what is refused."""

from __future__ import annotations

import itertools
import math
from typing import Any

import contrasts
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import scipy.integrate
import scipy.stats
import torch
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae.criticism.contrasts.discoveries import discover
from pyro_vae.criticism.contrasts.means import cell_names, predictive_means
from pyro_vae.parts import as_unbounded

LATENTS, COLUMNS, SCALE = 2, 3, 0.8


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class ByHand:
    """A VAE with z ~ N(a + B c, I), x | z, c ~ N(W z + A c, s^2 I), c = (group is A, group is B, dose), and q exact."""

    def __init__(self) -> None:
        covariates = pv.Covariates(
            {"group": ["A", "B"], "dose": "real"}, into=("encoder", "decoder", "prior"), prior_net=pv.nets.MLP(())
        )
        self.vae = pv.VAE(
            likelihood=pv.likelihoods.Normal(COLUMNS, scale="fixed", fixed_scale=SCALE, standardize=False),
            prior=pv.priors.Normal(LATENTS),
            guide=pv.guides.MultivariateNormal(),
            encoder=pv.nets.MLP(()),
            decoder=pv.nets.MLP(()),
            covariates=covariates,
            seed=0,
        ).double()
        self.a, self.b = normal(LATENTS, seed=1), normal(LATENTS, 3, seed=2)
        self.w, self.effects = normal(COLUMNS, LATENTS, seed=3), normal(COLUMNS, 3, seed=4)
        self.covariance = torch.linalg.inv(torch.eye(LATENTS).double() + self.w.T @ self.w / SCALE**2)
        tril = torch.linalg.cholesky(self.covariance)
        gain = self.covariance @ self.w.T / SCALE**2
        prior, decoder, encoder = (
            next(layer for layer in net.modules() if isinstance(layer, nn.Linear))
            for net in (self.vae.covariates.shift, self.vae.decoder, self.vae.encoder)
        )
        raw = as_unbounded(torch.ones(LATENTS).double())
        below = torch.tensor([tril[1, 0]]).double()
        with torch.no_grad():
            prior.weight.copy_(torch.cat([self.b, torch.zeros(LATENTS, 3)]))
            prior.bias.copy_(torch.cat([self.a, raw]))
            decoder.weight.copy_(torch.cat([self.w, self.effects], 1))
            decoder.bias.zero_()
            encoder.weight.zero_()
            encoder.weight[:LATENTS, :COLUMNS] = gain
            encoder.weight[:LATENTS, COLUMNS:] = self.covariance @ self.b - gain @ self.effects
            encoder.bias.copy_(torch.cat([self.covariance @ self.a, as_unbounded(tril.diagonal()), below]))
        groups = np.array(["A", "A", "B"])[np.arange(40) % 3]
        self.fields = {"group": groups, "dose": normal(40, seed=5)}
        at_b = torch.tensor(groups == "B")
        self.c = torch.stack([(~at_b).double(), at_b.double(), self.fields["dose"]], 1)
        self.at_b, self.x = at_b, self.vae.sample(40, seed=6, fields=self.fields)

    def posterior_mean(self) -> Tensor:
        residual = (self.x - self.c @ self.effects.T) @ self.w / SCALE**2
        return (residual + self.a + self.c @ self.b.T) @ self.covariance


@pytest.fixture(scope="module")
def by_hand() -> ByHand:
    return ByHand()


def check_close(found: pv.Contrast, mean: Tensor, sd: Tensor) -> None:
    """Mean and standard deviation of the draws, up to five standard errors of each."""
    assert ((found.estimate - mean).abs() < 5 * found.monte_carlo_error).all(), (found.estimate, mean)
    relative = (1 / len(found.draws) + 1 / found.independent.min()).sqrt() / 2**0.5
    assert ((found.standard_error / sd - 1).abs() < 5 * relative).all(), (found.standard_error, sd)


def test_the_evidence_of_the_model_by_hand_is_that_of_a_regression_with_random_effects(by_hand: ByHand) -> None:
    result = by_hand.vae.log_likelihood(by_hand.x, num_particles=30, seed=0, fields=by_hand.fields)
    mean = (by_hand.a + by_hand.c @ by_hand.b.T) @ by_hand.w.T + by_hand.c @ by_hand.effects.T
    covariance = by_hand.w @ by_hand.w.T + SCALE**2 * torch.eye(COLUMNS)
    exact = [scipy.stats.multivariate_normal.logpdf(x, m, covariance) for x, m in zip(by_hand.x, mean, strict=True)]
    np.testing.assert_allclose(result.estimate, exact, rtol=1e-8)
    assert result.standard_error.max() < 1e-8  # the weights do not vary: the guide is the posterior
    encoded = by_hand.vae.encode(by_hand.x, fields=by_hand.fields)
    torch.testing.assert_close(encoded.mean, by_hand.posterior_mean())


def test_decoding_all_rows_under_both_levels_gives_the_effect_in_the_decoder_exactly(by_hand: ByHand) -> None:
    found = pv.contrast(by_hand.vae, by_hand.x, "group", ("A", "B"), num_samples=50, seed=0, fields=by_hand.fields)
    exact = by_hand.effects[:, 1] - by_hand.effects[:, 0]
    torch.testing.assert_close(found.draws, exact.expand(50, COLUMNS))
    assert (found.rows, found.counts, found.flagged_share) == ("all", (27, 13), 0.0)
    turned = pv.contrast(by_hand.vae, by_hand.x, "group", ("B", "A"), num_samples=50, seed=0, fields=by_hand.fields)
    torch.testing.assert_close(turned.draws, -found.draws)
    dose = pv.contrast(by_hand.vae, by_hand.x, "dose", (1.0, 3.5), num_samples=50, seed=0, fields=by_hand.fields)
    torch.testing.assert_close(dose.draws, (2.5 * by_hand.effects[:, 2]).expand(50, COLUMNS))


def test_rows_of_either_level_differ_as_in_the_closed_form(by_hand: ByHand) -> None:
    found = pv.contrast(by_hand.vae, by_hand.x, "group", ("A", "B"), rows="own", seed=0, fields=by_hand.fields)
    means = by_hand.posterior_mean() @ by_hand.w.T + by_hand.c @ by_hand.effects.T
    one = by_hand.w @ by_hand.covariance @ by_hand.w.T
    variance = one.diagonal() * (1 / 13 + 1 / 27)
    check_close(found, means[by_hand.at_b].mean(0) - means[~by_hand.at_b].mean(0), variance.sqrt())
    low, high = found.interval(0.9)
    width = torch.tensor(2 * scipy.stats.norm.isf(0.05)) * variance.sqrt()
    assert ((high - low) / width - 1).abs().max() < 0.25  # an end of such an interval has an error of 6 % of the width
    assert (found.probability(above=0.1) <= found.probability(above=0.0)).all()
    torch.testing.assert_close(
        found.probability(beyond=0.2), found.probability(above=0.2) + (found.draws < -0.2).double().mean(0)
    )


def test_groups_are_contrasts_of_their_rows(by_hand: ByHand) -> None:
    sites = ["north" if i % 4 else "south" for i in range(40)]
    options: dict[str, Any] = {"rows": "own", "num_candidates": 2000, "seed": 0}
    found = pv.contrast(by_hand.vae, by_hand.x, "group", ("A", "B"), by=sites, **options, fields=by_hand.fields)
    named = pv.contrast(
        by_hand.vae, by_hand.x, "group", ("A", "B"), by="site", site=sites, **options, fields=by_hand.fields
    )
    torch.testing.assert_close(named.draws, found.draws)
    assert found.groups == ["north", "south"] and found.draws.shape == (1000, 2, COLUMNS)
    means = by_hand.posterior_mean() @ by_hand.w.T + by_hand.c @ by_hand.effects.T
    one = (by_hand.w @ by_hand.covariance @ by_hand.w.T).diagonal()
    for place, site in enumerate(found.groups):
        inside = torch.tensor([name == site for name in sites])
        sides = [inside & by_hand.at_b, inside & ~by_hand.at_b]
        mean = means[sides[0]].mean(0) - means[sides[1]].mean(0)
        error = (one * sum(1 / side.sum() for side in sides)).sqrt()
        assert ((found.estimate[place] - mean).abs() < 5 * found.monte_carlo_error[place]).all()
        assert (found.standard_error[place] / error - 1).abs().max() < 0.15
    of_levels = pv.contrast(
        by_hand.vae, by_hand.x, "dose", (0.0, 1.0), by="group", num_samples=10, seed=0, fields=by_hand.fields
    )
    assert of_levels.groups == ["A", "B"]


def test_a_statistic_of_replicated_data_has_their_noise_too(by_hand: ByHand) -> None:
    options: dict[str, Any] = {"seed": 0, "fields": by_hand.fields}
    exact = by_hand.effects[:, 1] - by_hand.effects[:, 0]
    found = pv.contrast(by_hand.vae, by_hand.x, "group", ("A", "B"), pv.statistics.mean, num_samples=400, **options)
    check_close(found, exact, torch.full((COLUMNS,), SCALE * (2 / 40) ** 0.5).double())
    total = pv.contrast(
        by_hand.vae, by_hand.x, "group", ("A", "B"), pv.statistics.row_total, num_samples=400, **options
    )
    assert total.names == ["row_total"] and total.draws.shape == (400, 1)
    check_close(total, exact.sum().reshape(1), torch.tensor([SCALE * (2 * COLUMNS / 40) ** 0.5]).double())

    def mean_of(x: Tensor, group: Tensor, weight: Tensor) -> Tensor:
        assert len(set(group.tolist())) == 1  # the level under which rows are decoded, or of which they are
        return (weight[:, None] * x).mean(0)

    for rows in ("all", "own"):
        weighted = pv.contrast(
            by_hand.vae,
            by_hand.x,
            "group",
            ("A", "B"),
            mean_of,
            rows=rows,
            num_samples=5,
            weight=torch.full((40,), 2.0),
            **options,
        )
        assert weighted.quantity == "mean_of" and weighted.draws.shape == (5, COLUMNS)


def test_an_effect_that_depends_on_the_latents_has_the_posterior_of_a_random_slope() -> None:
    model, c = contrasts.Slopes(), torch.arange(12) % 2
    x = model.sample(12, c=c.double(), seed=0)
    found = pv.contrast(model, x, "c", (0, 1), c=c.double(), seed=0)
    mean, covariance = model.posterior(x, c.double())
    variance = (model.v @ covariance.mean(0) @ model.v.T).diagonal() / 12
    check_close(found, (model.beta + model.v @ mean.mean(0)).detach(), variance.sqrt().detach())


@pytest.mark.slow
def test_intervals_cover_the_effect_in_95_of_100_data_sets() -> None:
    """A share of 1,000 has a standard error of .7 %: outside of 93 to 97 % in 1 of 250 seeds for each column."""
    covered = contrasts.coverage_of_slopes(1000)
    assert (covered >= 0.93).all() and (covered <= 0.97).all(), covered


@pytest.mark.slow
def test_the_benchmark_runs_in_small_and_its_scores_are_right(capsys: Any) -> None:
    contrasts.main(["--smoke"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 13 and lines[7].startswith("contrast, the model's own parameters")
    assert lines[1].endswith("a regression 0.110, 0.111, 0.112") and lines[2].startswith("  2 refits of 30 steps")
    score = contrasts.scored(torch.tensor([0, 2, 3]), torch.tensor([True, True, False, True, True]))
    assert (score.listed, score.realized, score.power) == (3, pytest.approx(1 / 3), 0.5)


def test_the_guide_of_the_benchmark_is_centred_at_the_modes() -> None:
    model = contrasts.Counts(200)
    data = contrasts.simulate(model, 6, seed=0)
    z = model.modes(data.x, data.c)[0].detach().requires_grad_()
    log_joint = dist.Poisson(model.log_rate(z, data.c).exp()).log_prob(data.x).sum() - z.square().sum() / 2
    (slope,) = torch.autograd.grad(log_joint, z)
    assert slope.abs().max() < 1e-3


class Counts(pv.LatentVariableModel):
    """z ~ N(0, 1), x | z ~ Poisson(exp(W z + A c)); the guide is the prior, so that weights have all to do."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.8, -0.5], dtype=torch.float64))
        self.a = nn.Parameter(torch.tensor([0.3, 1.1], dtype=torch.float64))

    def model(self, x: Tensor | None = None, *, rows: int | None = None, arm: Tensor) -> Tensor:
        with pyro.plate("data", len(x) if x is not None else rows):
            z = pyro.sample("z", dist.Normal(self.w.new_zeros(1), 1.0).to_event(1))
            rate = (z * self.w + arm[:, None] * self.a).exp()
            return pyro.sample("x", dist.Poisson(rate).to_event(1), obs=x)

    def guide(self, x: Tensor, arm: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.w.new_zeros(len(x), 1), 1.0).to_event(1))


def test_weights_correct_a_guide_that_is_not_the_posterior() -> None:
    """Rates of one row of each arm, by quadrature over z."""
    model, x, arm = Counts(), torch.tensor([[1.0, 0.0], [4.0, 2.0]]).double(), torch.tensor([0, 1])
    found = pv.contrast(model, x, "arm", (0, 1), rows="own", arm=arm, num_samples=4000, num_candidates=20_000, seed=0)
    w, a = model.w.detach().numpy(), model.a.detach().numpy()
    moments = []
    for row, c in zip(x.numpy(), arm.numpy(), strict=True):

        def weight(z: float, row: Any = row, c: Any = c) -> float:
            return scipy.stats.norm.pdf(z) * np.prod(scipy.stats.poisson.pmf(row, np.exp(w * z + a * c)))

        total = scipy.integrate.quad(weight, -8, 8)[0]
        powers = [
            [
                scipy.integrate.quad(lambda z: np.exp(w[j] * z + a[j] * c) ** k * weight(z), -8, 8)[0] / total  # noqa: B023
                for j in range(2)
            ]
            for k in (1, 2)
        ]
        moments.append((np.array(powers[0]), np.array(powers[1]) - np.array(powers[0]) ** 2))
    (mean_a, variance_a), (mean_b, variance_b) = moments
    assert (np.abs(found.estimate.numpy() - (mean_b - mean_a)) < 5 * found.monte_carlo_error.numpy()).all()
    np.testing.assert_allclose(found.standard_error, np.sqrt(variance_a + variance_b), rtol=0.1)
    assert (found.ess < 18_000).all() and found.flagged_share == 0


def test_a_log_ratio_of_rates_is_the_effect_on_the_log_scale() -> None:
    model, arm = Counts(), torch.arange(20) % 2
    x = model.sample(20, arm=arm, seed=0)
    found = pv.contrast(model, x, "arm", (0, 1), scale="log ratio", arm=arm, num_samples=50, seed=0)
    torch.testing.assert_close(found.draws, model.a.detach().expand(50, 2))
    with pytest.raises(
        ValueError, match="averages must be positive for a log ratio; got -.* at '0' for '0'. Use scale"
    ):
        pv.contrast(model, x, "arm", (0, 1), lambda x: x.mean(0) - x[:, 1].max(), scale="log ratio", arm=arm, seed=0)


def test_the_monte_carlo_error_is_that_of_repeated_calls() -> None:
    model, arm = Counts(), torch.arange(6) % 2
    x = model.sample(6, arm=arm, seed=0)
    options: dict[str, Any] = {"rows": "own", "arm": arm, "num_samples": 100, "num_candidates": 100}
    found = [pv.contrast(model, x, "arm", (0, 1), seed=seed, **options) for seed in range(200)]
    spread = torch.stack([one.estimate for one in found]).std(0)
    stated = torch.stack([one.monte_carlo_error for one in found]).mean(0)
    assert ((spread / stated - 1).abs() < 0.25).all(), spread / stated  # .05 by chance; ess is an approximation


def with_gaps(missing: Any) -> tuple[pv.VAE, Tensor]:
    vae = pv.VAE(
        likelihood=pv.likelihoods.Normal(3, scale="fixed", fixed_scale=1.0, standardize=False),
        prior=pv.priors.Normal(1),
        encoder=pv.nets.Masked(pv.nets.MLP(())),
        decoder=pv.nets.MLP(()),
        missing=missing,
        covariates=pv.Covariates({"group": ["A", "B"]}, into=("decoder",)),
        seed=0,
    ).double()
    with torch.no_grad():
        for parameter in vae.encoder.parameters():
            parameter.zero_()  # q is the prior
    x = normal(8, 3, seed=1)
    x[0, 1] = x[3, 0] = x[3, 2] = x[6] = math.nan
    return vae, x


def test_missing_cells_are_left_out_of_what_is_known_about_a_row() -> None:
    vae, x = with_gaps(pv.missing.AtRandom())
    groups = torch.arange(8) % 2
    found = pv.contrast(vae, x, "group", ("A", "B"), rows="own", group=groups, num_candidates=8000, seed=0)
    (linear,) = [layer for layer in vae.decoder.modules() if isinstance(layer, nn.Linear)]
    w, effects = linear.weight[:, 0].detach(), (linear.weight[:, 1:].T + linear.bias)[groups].detach()
    seen = (~x.isnan()).double()
    precision = 1 + (seen * w**2).sum(1)
    mean = ((x.nan_to_num(0.0) - effects) * seen * w).sum(1) / precision
    means = mean[:, None] * w + effects
    variance = w**2 * ((1 / precision)[groups == 0].sum() + (1 / precision)[groups == 1].sum()) / 16
    check_close(found, means[groups == 1].mean(0) - means[groups == 0].mean(0), variance.sqrt())


def test_cells_that_are_not_missing_at_random_may_be_contrasted() -> None:
    vae, x = with_gaps(pv.missing.NotAtRandom(pv.missing.SelfMasking()))
    found = pv.contrast(vae, x, "group", ("A", "B"), group=torch.arange(8) % 2, num_samples=20, seed=0)
    assert found.draws.shape == (20, 3) and found.draws.isfinite().all()


def test_levels_in_no_order_are_compared_by_their_probabilities() -> None:
    blocks = {"visits": pv.likelihoods.Poisson(2), "class": pv.likelihoods.Categorical(1, 3)}
    vae = pv.VAE(
        likelihood=pv.likelihoods.Product(blocks),
        prior=pv.priors.Normal(2),
        covariates=pv.Covariates({"group": ["A", "B"]}),
        seed=0,
    ).double()
    x = torch.tensor([[1.0, 0.0, 2.0], [3.0, 1.0, 0.0], [0.0, 2.0, 1.0]]).double()
    rows = pv.Rows(x, columns=["a", "b", "class"])
    found = pv.contrast(vae, rows, "group", ("A", "B"), group=["A", "B", "B"], num_samples=50, seed=0)
    assert found.names == ["a", "b", "class = 0", "class = 1", "class = 2"]
    torch.testing.assert_close(found.draws[:, 2:].sum(1), torch.zeros(50).double())
    assert found.draws[:, 2:].abs().min() > 0
    probabilities = torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
    distribution = dist.Categorical(probs=probabilities.expand(4, 2, 3)).to_event(1)
    torch.testing.assert_close(predictive_means(distribution, ["u", "v"])[0], probabilities.flatten())
    assert cell_names(distribution, rows, ["u", "v"])[3:] == ["v = 0", "v = 1", "v = 2"]


def test_a_table_names_columns_and_levels() -> None:
    frame = pd.DataFrame(
        {"age": [31.5, 40.25, 28.0, 55.5, 61.0, 47.0], "eyes": ["blue", "brown", "green", "blue", "green", "brown"]}
    )
    vae = pv.VAE.for_table(frame, latent_dim=2, covariates=pv.Covariates({"arm": ["u", "v"]}), seed=0)
    arm = ["u", "v"] * 3
    vae.fit(frame, fields={"arm": arm}, epochs=1, seed=0, progress=False)
    found = pv.contrast(vae, frame, "arm", ("u", "v"), arm=arm, num_samples=20, seed=0)
    assert found.names == ["age", "eyes = blue", "eyes = brown", "eyes = green"]
    assert list(found.to_pandas().index) == found.names
    assert "arm: v - u of predictive means. 6 rows, each decoded under u and under v" in str(found)


def test_images_and_several_layers_may_be_contrasted() -> None:
    covariates = pv.Covariates({"arm": "binary"})
    vae = pv.VAE(
        likelihood=pv.likelihoods.Bernoulli((1, 4, 4)), prior=pv.priors.Normal(2), covariates=covariates, seed=0
    )
    x, arm = (normal(6, 1, 4, 4) > 0).float(), torch.arange(6) % 2
    found = pv.contrast(vae, x, "arm", (0, 1), by=arm, arm=arm, num_samples=10, seed=0)
    assert found.draws.shape == (10, 2, 1, 4, 4) and found.interval()[0].shape == (2, 1, 4, 4)
    assert found.monte_carlo_error.shape == (2, 1, 4, 4) and len(found.lines()) == 32
    deep = pv.HierarchicalVAE(
        likelihood=pv.likelihoods.Bernoulli(16), latent_dims=(3, 2), covariates=covariates, seed=0
    )
    found = pv.contrast(deep, x.flatten(1), "arm", (0, 1), arm=arm, num_samples=10, seed=0)
    assert found.draws.shape == (10, 16)


def test_the_longest_list_whose_expected_rate_is_allowed_is_found() -> None:
    """Among all lists that take cells in the order of their probabilities, and of all lists of their length."""
    for seed in range(20):
        draws = 0.6 * normal(60, 8, seed=seed) + normal(8, seed=100 + seed)
        found = discover(draws, list("abcdefgh"), 0.5, 0.2)
        miss = (draws.abs() <= 0.5).double().mean(0)
        allowed = [
            subset
            for size in range(9)
            for subset in itertools.combinations(range(8), size)
            if size == 0 or float(miss[list(subset)].mean()) <= 0.2
        ]
        assert len(found) == max(map(len, allowed))
        assert found.expected_fdr == pytest.approx(
            min(float(miss[list(s)].mean()) for s in allowed if len(s) == len(found)) if len(found) else 0
        )
        torch.testing.assert_close(found.probability, 1 - miss[found.index])
        assert found.probability.diff().le(1e-12).all()


def test_a_list_by_hand() -> None:
    miss = [0.0, 0.04, 0.08, 0.3]  # running means 0, .02, .04, .105
    draws = torch.ones(100, 4).double()
    for cell, share in enumerate(miss):
        draws[: round(100 * share), cell] = 0.0
    assert [len(discover(draws, list("abcd"), 0.5, fdr)) for fdr in (0.01, 0.02, 0.04, 0.05, 0.11)] == [1, 2, 3, 3, 4]
    found = discover(draws, list("abcd"), 0.5, 0.05)
    assert found.names == ["a", "b", "c"] and found.expected_fdr == pytest.approx(0.04)
    shares = torch.tensor([2 / 3] * 4 + [1 / 3] * 4 + [0.0] * 92).double()
    assert found.monte_carlo_error == pytest.approx(float(shares.std() / 10))
    assert "3 of 4 cells with |contrast| > 0.5; expected false discovery rate 0.0400" in str(found)
    none = discover(torch.zeros(10, 2), ["a", "b"], 0.5, 0.05)
    assert len(none) == 0 and str(none) == "No cell of 2: an expected false discovery rate of 0.05 allows none."
    assert list(none.to_pandas().columns) == ["estimate", "P(|contrast| > 0.5)"]


def test_listed_cells_are_named_with_their_group(by_hand: ByHand) -> None:
    found = pv.contrast(
        by_hand.vae, by_hand.x, "group", ("A", "B"), by="group", num_samples=20, seed=0, fields=by_hand.fields
    )
    sizes = found.estimate[0].abs()
    listed = found.discoveries(threshold=float(sizes.sort().values[-2:].mean()))
    assert sorted(listed.names) == [f"{group}, {int(sizes.argmax())}" for group in "AB"] and listed.num_cells == 6


def test_what_is_printed_says_what_was_done_and_what_is_left_out(by_hand: ByHand) -> None:
    found = pv.contrast(by_hand.vae, by_hand.x, "group", ("A", "B"), rows="own", seed=0, fields=by_hand.fields)
    text = str(found)
    assert text.splitlines()[0].split("  ")[0] == "cell" and len(text.splitlines()) == 1 + COLUMNS + 3
    assert "group: B - A of predictive means. 13 rows at B against 27 rows at A, each decoded under its own" in text
    assert "1,000 draws, resampled from 1,000 candidates of each row; k-hat flags 0 of 40 rows." in text
    assert "the parameters of the model are taken as known, and the rows as given, not as a sample" in text
    assert repr(found) == "<Contrast: group: B - A of predictive means, 3 cells, rows='own'>"
    ratio = pv.contrast(
        Counts(), torch.ones(60, 2).double(), "arm", (0, 1), scale="log ratio", by=range(60), arm=[0, 1] * 30, seed=0
    )
    assert "arm: log(1 / 0) of predictive means, natural logarithm." in str(ratio)
    assert "The 20 of 120 cells with the largest |estimate| in standard errors." in str(ratio)
    assert len(str(ratio).splitlines()) == 1 + 20 + 4 and len(ratio.to_pandas()) == 120


def test_a_figure_shows_the_largest_cells(by_hand: ByHand) -> None:
    found = pv.contrast(by_hand.vae, by_hand.x, "group", ("A", "B"), rows="own", seed=0, fields=by_hand.fields)
    ax = found.plot(most=2, threshold=0.1)
    assert [label.get_text() for label in ax.get_yticklabels()] == [found.names[i] for i in found.largest(2)]
    assert ax.get_xlabel() == "B - A of predictive means, 95 % intervals"


def test_the_same_seed_gives_the_same_draws_and_rows_of_the_statistic_keep_their_order(by_hand: ByHand) -> None:
    options: dict[str, Any] = {"rows": "own", "num_samples": 20, "fields": by_hand.fields}
    one, two, other = (
        pv.contrast(by_hand.vae, by_hand.x, "group", ("A", "B"), seed=seed, **options).draws for seed in (1, 1, 2)
    )
    assert torch.equal(one, two) and not torch.equal(one, other)


class OnlyGuide(Counts):
    """The arm reaches the guide alone."""

    def model(self, x: Tensor | None = None, *, rows: int | None = None, arm: Tensor) -> Tensor:
        return super().model(x, rows=rows, arm=torch.zeros_like(arm))


class Shared(Counts):
    """A latent that all rows share."""

    def model(self, x: Tensor | None = None, *, rows: int | None = None, arm: Tensor) -> Tensor:
        shift = pyro.sample("shift", dist.Normal(self.w.new_zeros(()), 1.0))
        with pyro.plate("data", len(x) if x is not None else rows):
            z = pyro.sample("z", dist.Normal(self.w.new_zeros(1), 1.0).to_event(1))
            return pyro.sample("x", dist.Poisson((z * self.w + shift[..., None, None]).exp()).to_event(1), obs=x)

    def guide(self, x: Tensor, arm: Tensor) -> None:
        pyro.sample("shift", dist.Normal(self.w.new_zeros(()), 1.0))
        super().guide(x, arm)


def test_a_field_without_effect_is_warned_of_and_a_global_latent_refused() -> None:
    x, arm = torch.ones(4, 2).double(), torch.tensor([0, 1, 0, 1])
    with pytest.warns(UserWarning, match="exactly the same under both levels of 'arm'"):
        pv.contrast(OnlyGuide(), x, "arm", (0, 1), arm=arm, num_samples=5, seed=0)
    with pytest.raises(NotImplementedError, match="Rows must be independent to be contrasted; got a global latent"):
        pv.contrast(Shared(), x, "arm", (0, 1), arm=arm, num_samples=5, seed=0)


def regression(num_rows: int) -> tuple[pv.VAE, dict[str, Any], Tensor]:
    """A factor model with an effect of the arm, fitted; the options of its fit; and the rows."""
    arm = torch.arange(num_rows) % 3 % 2
    x = normal(num_rows, 1, seed=1) * torch.tensor([1.0, -0.7, 0.4]) + 0.5 * normal(num_rows, 3, seed=2)
    x = x + arm[:, None] * torch.tensor([1.0, 0.0, -0.5])
    vae = pv.VAE(
        likelihood=pv.likelihoods.Normal(3, scale="per_dimension"),
        prior=pv.priors.Normal(1),
        encoder=pv.nets.MLP(()),
        decoder=pv.nets.MLP(()),
        covariates=pv.Covariates({"arm": "binary"}),
        seed=0,
    ).double()
    options = {"batch_size": num_rows, "learning_rate": 0.03, "compile": False}
    vae.fit(x, fields={"arm": arm}, epochs=300, seed=0, progress=False, **options)
    return vae, {"fields": {"arm": arm}, "refit": "bootstrap", "refit_options": options | {"epochs": 60}}, x


@pytest.mark.slow
def test_refits_give_the_standard_errors_of_a_regression() -> None:
    """The decoder is linear, so that the contrast is the difference of the means of both arms, as in a t-test."""
    vae, options, x = regression(300)
    arm = options["fields"]["arm"]
    found = pv.contrast(vae, x, "arm", (0, 1), num_refits=60, num_candidates=50, num_samples=120, seed=0, **options)
    groups = [x[arm == level] for level in (0, 1)]
    error = sum(group.var(0) / len(group) for group in groups).sqrt()  # type: ignore[attr-defined]
    assert ((found.estimate - (groups[1].mean(0) - groups[0].mean(0))).abs() < error).all()
    assert ((found.standard_error / error - 1).abs() < 0.35).all(), found.standard_error / error  # .09 by chance
    known = pv.contrast(vae, x, "arm", (0, 1), num_samples=20, seed=0, fields=options["fields"])
    assert (known.standard_error < 1e-6).all()  # what is known where parameters are: nothing is left open


def test_draws_of_refits_come_from_each_copy_and_say_so() -> None:
    vae, options, x = regression(30)
    options["refit_options"] |= {"epochs": 2}
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    found = pv.contrast(vae, x, "arm", (0, 1), num_refits=4, num_samples=10, seed=0, **options)
    assert found.draws.shape == (12, 3) and found.num_refits == 4  # three of each copy
    copies = found.draws.reshape(4, 3, 3)
    torch.testing.assert_close(copies, copies[:, :1].expand(4, 3, 3))
    torch.testing.assert_close(found.monte_carlo_error, copies.mean(1).std(0) / 2)
    again = pv.contrast(vae, x, "arm", (0, 1), num_refits=4, num_samples=10, seed=0, **options)
    assert torch.equal(again.draws, found.draws)
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())
    assert "12 draws from 4 bootstrap refits, resampled from" in str(found) and "Refits carry the unc" in str(found)
    shares = (found.draws.abs() <= 0.1).double().reshape(4, 3, 3).mean(1)
    listed = found.discoveries(0.1, 0.9)
    assert listed.monte_carlo_error == pytest.approx(float(shares[:, listed.index].mean(1).std() / 2))
    with pytest.raises(ValueError, match="refit_options must be arguments of fit with the number of epochs"):
        pv.contrast(vae, x, "arm", (0, 1), refit="bootstrap", fields=options["fields"])
    wrong = options | {"refit_options": {"epochs": 1, "epoch": 2}}
    with pytest.raises(TypeError, match="refit_options must be arguments of fit; got 'epoch'"):
        pv.contrast(vae, x, "arm", (0, 1), num_refits=2, **wrong)
    with pytest.raises(ValueError, match="num_refits must be an integer of at least 2; got 1"):
        pv.contrast(vae, x, "arm", (0, 1), num_refits=1, **options)


def test_flagged_rows_are_warned_of() -> None:
    x, arm = 60 * torch.ones(4, 2).double(), torch.tensor([0, 1, 0, 1])
    with pytest.warns(pv.evaluation.UnreliableWarning, match="100% of the rows have a Pareto k-hat above"):
        found = pv.contrast(Counts(), x, "arm", (0, 1), rows="own", arm=arm, num_candidates=50, seed=0)
    assert found.flagged.all() and "k-hat flags 4 of 4 rows" in str(found)


GROUP: dict[str, Any] = {"field": "group", "levels": ("A", "B")}
REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    (
        GROUP | {"by": pd.Series(pd.date_range("2020", periods=40))},
        TypeError,
        "by must be text or numbers, one for each",
    ),
    ({"field": 3, "levels": ("A", "B")}, TypeError, "field must be the name of a field; got 3"),
    ({"field": "grupo", "levels": ("A", "B")}, ValueError, r"field must name a field of the rows \('group', 'dose'\)"),
    ({"field": "group", "levels": ("A", "C")}, ValueError, "have one of the levels 'A', 'B'; got 'C'. Correct it"),
    ({"field": "group", "levels": ("A", "A")}, ValueError, "levels must be two different ones of the field 'group'"),
    ({"field": "group", "levels": "AB"}, ValueError, r"levels must be two, \(A, B\), for B - A; got 'AB'"),
    ({"field": "group", "levels": ("A", "B", "A")}, ValueError, "levels must be two,"),
    ({"field": "group", "levels": (["A", "B"], "B")}, ValueError, "levels must be single values of the field 'group'"),
    ({"field": "dose", "levels": (0.0, math.inf)}, ValueError, "levels must be finite; got inf"),
    ({"field": "dose", "levels": (0.0, 1.0), "rows": "own"}, ValueError, "got no row with 'dose' at 0.0. Choose other"),
    (GROUP | {"rows": "own", "by": np.arange(40)}, ValueError, "got no row with 'group' at 'A' in the group '2'"),
    (GROUP | {"rows": "each"}, ValueError, "rows must be 'all' or 'own'; got 'each'"),
    (GROUP | {"scale": "ratio"}, ValueError, "scale must be 'difference' or 'log ratio'; got 'ratio'"),
    (GROUP | {"by": ["a"] * 39}, ValueError, r"by must be one label for each of 40 rows; got shape \(39,\)"),
    (GROUP | {"by": ["a"] * 39 + [None]}, ValueError, "by must be text in each row; got None in row 39"),
    (GROUP | {"by": [1.0] * 39 + [math.nan]}, ValueError, "by must be finite; got nan in row 39"),
    (GROUP | {"by": "site"}, ValueError, "by must name a field of the rows .* got 'site'. Correct the name, or pass"),
    (GROUP | {"statistic": "mean"}, TypeError, "statistic must be a function of data; got 'mean'"),
    (GROUP | {"statistic": lambda x, site: x}, ValueError, "statistic must have the fields that it reads; .* 'site'"),
    (GROUP | {"statistic": lambda x: x[0] / 0}, ValueError, "statistic 'statistic' must be finite; got"),
    (GROUP | {"statistic": lambda x: "a"}, TypeError, "statistic 'statistic' must return a tensor"),
    (GROUP | {"statistic": lambda x: x[x[:, 0] > 0, 0]}, ValueError, "statistic 'statistic' must have one shape for"),
    (GROUP | {"num_samples": 1}, ValueError, "num_samples must be an integer of at least 2; got 1"),
    (GROUP | {"num_candidates": 0}, ValueError, "num_candidates must be an integer of at least 2; got 0"),
    ({"field": "arm", "levels": ("u", "w"), "arm": ["u", "v"] * 20}, ValueError, "those of the field 'arm', 'u', 'v'"),
    ({"field": "arm", "levels": (0, 1), "arm": ["0", "1"] * 20}, ValueError, "those of the field 'arm', '0', '1'"),
    ({"field": "arm", "levels": (0, 0), "arm": [0, 1] * 20}, ValueError, "levels must be two different ones"),
    (
        {"field": "arm", "levels": (0, 1), "arm": [0, 1] * 20, "rows": "all"},
        ValueError,
        "rows must be 'own' for the field 'arm', which does not reach the decoder",
    ),
]


@pytest.mark.parametrize(("arguments", "error", "match"), REFUSED, ids=[match[:40] for _, _, match in REFUSED])
def test_wrong_arguments_are_refused(
    by_hand: ByHand, arguments: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        pv.contrast(by_hand.vae, by_hand.x, **({"num_samples": 5, "seed": 0} | arguments), fields=by_hand.fields)


@pytest.mark.parametrize("name", ["by", "ward"])
def test_a_series_with_the_rows_in_another_order_is_refused(by_hand: ByHand, name: str) -> None:
    frame, labels = pd.DataFrame(by_hand.x.numpy()), pd.Series(["x", "y"] * 20).iloc[::-1]
    what = {"by": GROUP | {"by": labels}, "ward": {"field": "ward", "levels": ("x", "y"), "ward": labels}}[name]
    with pytest.raises(ValueError, match=f"field '{name}' must have the index of x"):
        pv.contrast(by_hand.vae, frame, **what, num_samples=5, seed=0, **by_hand.fields)


def test_statistics_of_levels_in_no_order_say_that_they_are_of_codes() -> None:
    group = np.array(["A", "B"] * 20)
    frame = pd.DataFrame(
        {"n": np.arange(40) % 7 + 0.5, "kind": np.array(["x", "y", "z", "x", "z"] * 8), "group": group}
    )
    rows = pv.Table(frame, covariates=["group"])
    vae = pv.VAE.for_table(rows, latent_dim=1, seed=0)
    vae.fit(rows, epochs=1, seed=0, compile=False, progress=False)
    few: dict[str, Any] = {"num_samples": 4, "num_candidates": 30, "seed": 0}
    found = pv.contrast(vae, rows, "group", ("A", "B"), pv.statistics.variance, **few)
    assert found.names == ["n", "kind (code)"]
    assert "kind (code)" in str(pv.check(vae, rows, {"variance": pv.statistics.variance}, **few))


def test_refits_leave_out_fields_that_the_model_does_not_read() -> None:
    vae, options, x = regression(30)
    rows = pv.Rows(x, options["fields"] | {"ward": torch.arange(30) % 2})
    options = {"refit": "bootstrap", "refit_options": {"epochs": 1, "batch_size": 30}, "num_refits": 2}
    found = pv.contrast(vae, rows, "arm", (0, 1), by="ward", num_samples=4, seed=0, **options)
    assert found.groups == ["0", "1"] and found.draws.shape == (4, 2, 3)


def test_wrong_questions_to_a_contrast_are_refused(by_hand: ByHand) -> None:
    found = pv.contrast(by_hand.vae, by_hand.x, **GROUP, num_samples=5, seed=0, fields=by_hand.fields)
    with pytest.raises(ValueError, match="threshold must be a positive number; got -1"):
        found.discoveries(-1)
    with pytest.raises(ValueError, match="threshold must be a positive number; got 0"):
        found.discoveries(0)
    for fdr in (0, 1, "a"):
        with pytest.raises(ValueError, match="fdr must lie between 0 and 1; got"):
            found.discoveries(0.1, fdr)
    with pytest.raises(ValueError, match="level must lie between 0 and 1; got 95"):
        found.interval(95)
    for chosen, got in (({}, "neither"), ({"above": 0.0, "beyond": 0.0}, "both")):
        with pytest.raises(ValueError, match=f"above or beyond must be given; got {got}"):
            found.probability(**chosen)
    with pytest.raises(ValueError, match="beyond must be a number of at least 0; got -1"):
        found.probability(beyond=-1)
    with pytest.raises(TypeError, match="model must be a LatentVariableModel"):
        pv.contrast(None, by_hand.x, **GROUP)


def test_likelihoods_without_a_mean_need_a_statistic() -> None:
    covariates = pv.Covariates({"arm": "binary"})
    x, arm = normal(6, 2).float(), torch.arange(6) % 2
    vae = pv.VAE(
        likelihood=pv.likelihoods.StudentT(2, df=1.0), prior=pv.priors.Normal(2), covariates=covariates, seed=0
    )
    with pytest.raises(
        NotImplementedError, match="cells must have a mean in closed form .* got none of '0'. Pass stat"
    ):
        pv.contrast(vae, x, "arm", (0, 1), arm=arm, num_samples=5, seed=0)
    found = pv.contrast(vae, x, "arm", (0, 1), pv.statistics.quantile(0.5), arm=arm, num_samples=5, seed=0)
    assert found.draws.shape == (5, 2)
    pixels = pv.VAE(
        likelihood=pv.likelihoods.Autoregressive(
            pv.likelihoods.Bernoulli((1, 4, 4)),
            net=pv.nets.PixelCNN(channels=4, layers=2, kernel=3),
            context_channels=3,
        ),
        prior=pv.priors.Normal(2),
        covariates=covariates,
        seed=0,
    )
    with pytest.raises(NotImplementedError, match="cells must have a mean in closed form"):
        pv.contrast(pixels, (normal(6, 1, 4, 4) > 0).float(), "arm", (0, 1), arm=arm, num_samples=5, seed=0)


def test_a_field_of_encoder_or_prior_alone_is_contrasted_by_its_rows() -> None:
    covariates = pv.Covariates({"arm": "binary"}, into=("encoder", "prior"))
    vae = pv.VAE(likelihood=pv.likelihoods.Normal(2), prior=pv.priors.Normal(1), covariates=covariates, seed=0)
    x, arm = normal(6, 2).float(), torch.arange(6) % 2
    with pytest.raises(ValueError, match="rows must be 'own' for the field 'arm', which does not reach the decoder"):
        pv.contrast(vae, x, "arm", (0, 1), rows="all", arm=arm)
    assert pv.contrast(vae, x, "arm", (0, 1), arm=arm, num_samples=5, seed=0).rows == "own"
