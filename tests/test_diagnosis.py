"""The report: what it finds in models with known faults, and what it advises."""

from __future__ import annotations

import inspect
from typing import get_type_hints

import matplotlib
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import draw_data, small_vae
from exact import Discrete, GlobalMean, LinearGaussian
from test_calibration import MeanField, correlated

import pyro_vae as pv
from pyro_vae.criticism import diagnosis
from pyro_vae.evaluation import UnreliableWarning

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def advice(found, about):
    return [finding.advice for finding in found.findings if finding.about.startswith(about)]


def test_a_true_model_with_an_exact_guide_has_no_concerns(capsys: pytest.CaptureFixture[str]) -> None:
    program = LinearGaussian(event=6, latent=2)
    found = pv.diagnose(program, program.draw(300), seed=0)
    assert found.concerns == []
    printed = capsys.readouterr().out
    assert "Diagnosis on 300 rows: 0 of" in printed and "row standard deviation" in printed
    assert "amortization gap: 0.0" in printed or "amortization gap: -0.0" in printed
    assert found.use is not None and found.calibration is not None and found.checks is not None


def test_a_narrow_guide_a_wrong_model_and_a_collapse_are_found_and_given_advice() -> None:
    narrow = correlated(MeanField)
    found = pv.diagnose(narrow, narrow.draw(300), verbose=False)
    (text,) = advice(found, "encoder on simulated rows")
    assert "too narrow (ranks form a U)" in text
    wrong = LinearGaussian()
    x = wrong.draw(300) * 2
    assert "does not generate such data" in advice(pv.diagnose(wrong, x, verbose=False), "predictive checks")[0]
    vae = small_vae()
    with torch.no_grad():
        for parameter in vae.encoder.parameters():
            parameter.mul_(1e-3)
    found = pv.diagnose(vae, draw_data(vae.likelihood, 100), num_samples=20, verbose=False)
    assert advice(found, "latents at z")[0].startswith("Collapsed: anneal the KL weight")
    assert found.gap is not None
    too_few = LinearGaussian(event=8, latent=5, width=0.4)
    found = pv.diagnose(too_few, too_few.draw(100), verbose=False)
    assert "method='ais'" in advice(found, "evidence")[0]


def test_flagged_rows_are_a_concern_where_annealing_shows_that_the_number_is_too_low() -> None:
    narrow = LinearGaussian(event=8, latent=5, width=0.4)
    x = narrow.draw(100)
    found = pv.diagnose(narrow, x, verbose=False)
    assert found.audit is not None and found.log_likelihood.flagged_share > 0.5
    mean, exact = found.audit.mean(), narrow.log_evidence(x).mean().item()
    assert abs(mean.estimate - exact) < 4 * mean.monte_carlo_error < 1.0
    finding = found.findings[0]
    assert str(mean) in finding.found and "importance sampling is" in finding.found and finding in found.concerns
    nearly = LinearGaussian(event=8, latent=5, width=0.7)  # flagged, with next to no bias
    found = pv.diagnose(nearly, x, verbose=False)
    assert found.audit is not None and found.audit.difference().estimate < 0.1
    assert found.findings[0].about == "evidence" and found.findings[0] not in found.concerns


def test_where_annealing_is_lower_still_the_report_says_that_neither_is_known_to_be_near() -> None:
    model, poor = LinearGaussian(event=8, latent=5, width=0.4), pv.evaluation.AIS(2, 1, start="prior", num_chains=4)
    x = model.draw(100)
    score = model.log_likelihood(x, num_particles=1000, seed=0)
    with pytest.warns(UnreliableWarning, match="lower than importance"):
        audit = model.audited_log_likelihood(x, num_rows=50, method=poor, seed=0)
    finding = diagnosis._about_score(score, model.elbo(x, seed=0), audit)
    assert "nats higher than annealing" in finding.found and finding.advice.startswith("By how much both are too low")


@pytest.mark.parametrize("rows", [1, 2])
def test_fewer_than_three_rows_are_refused_by_their_number(rows: int) -> None:
    model = LinearGaussian(3, 2, width=0.2)  # its rows are flagged, and would be audited
    with pytest.raises(ValueError, match=f"x must be at least 3 rows to be diagnosed; got {rows}. Pass more rows."):
        pv.diagnose(model, model.draw(rows), verbose=False)
    with pytest.raises(ValueError, match="max_rows must be an integer of at least 3; got 2"):
        pv.diagnose(model, model.draw(9), max_rows=2, verbose=False)


def test_too_few_draws_for_k_hat_are_not_called_a_log_likelihood_that_is_too_low() -> None:
    found = pv.diagnose(Discrete(), Discrete().sample(40, seed=1), num_particles=20, verbose=False)
    assert found.audit is None and "annealing of log p(x)" in found.skipped  # the latents are discrete
    assert advice(found, "evidence") == ["Whether this is too low is unknown: num_particles must be at least 25."]


class Counts(pv.LatentVariableModel):
    """Counts x ~ Poisson(4), which say nothing of z."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.rate = torch.nn.Parameter(torch.full((columns,), 4.0))

    def model(self, x=None, *, rows=None, **batch):
        with pyro.plate("data", len(x) if x is not None else rows):
            pyro.sample("z", dist.Normal(0.0, 1.0))
            return pyro.sample("x", dist.Poisson(self.rate).to_event(1), obs=x)

    def guide(self, x, **batch):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))


def stretched(program: LinearGaussian, x: torch.Tensor) -> torch.Tensor:
    """Rows as if the scale of the noise were 1.5 times as large."""
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(9), dtype=x.dtype)
    return x + (1.5**2 - 1) ** 0.5 * program.log_scale.detach().exp() * noise


@pytest.mark.parametrize("columns", [4, 64])
def test_what_is_wrong_by_a_factor_is_found(columns: int) -> None:
    program = LinearGaussian(event=columns)
    narrow = LinearGaussian(event=columns, width=0.5)
    counts = Counts(columns)
    torch.manual_seed(0)
    twofold = torch.distributions.NegativeBinomial(4.0, probs=0.5 * torch.ones(columns)).sample((300,))  # 4, variance 8
    few = {"num_particles": 20, "num_samples": 59, "verbose": False}
    x = program.draw(300)
    assert advice(pv.diagnose(program, stretched(program, x), **few), "predictive checks")[0]
    assert "too narrow" in advice(pv.diagnose(narrow, x, **few), "encoder on simulated rows")[0]
    assert advice(pv.diagnose(counts, twofold, **few), "predictive checks")[0]


@pytest.mark.slow
@pytest.mark.parametrize("columns", [4, 30, 64])
def test_data_from_the_model_raise_a_concern_at_the_stated_rate(columns: int) -> None:
    """100 data sets: more than 12 of them raise one with probability .002 at a rate of 5 %."""
    program = LinearGaussian(event=columns)
    raised = 0
    for seed in range(100):
        x = program.draw(300, seed=seed)
        raised += bool(pv.diagnose(program, x, num_particles=20, seed=seed, verbose=False).concerns)
    assert raised <= 12


def test_too_few_replicates_for_the_stated_rate_are_said_to_be_too_few() -> None:
    program = LinearGaussian()
    found = pv.diagnose(program, program.draw(50), num_samples=38, num_particles=20, verbose=False)
    text = next(finding.found for finding in found.findings if finding.about == "predictive checks")
    assert "38 replicates are too few to test statistics of the data set: num_samples must be at least 39" in text
    found = pv.diagnose(program, program.draw(300) * 2, num_samples=39, num_particles=20, verbose=False)
    assert "variance" in next(finding.found for finding in found.findings if finding.about == "predictive checks")


def test_what_a_model_does_not_allow_is_skipped_with_its_reason() -> None:
    joint = pv.diagnose(GlobalMean(), torch.randn(6, dtype=torch.float64), num_samples=5, verbose=False)
    assert set(joint.skipped) == {"use of latents", "calibration"}
    assert joint.use is None and joint.checks is not None
    assert "nats for all rows together" in joint.findings[0].found and "nan" not in str(joint.findings)
    program = Discrete()
    found = pv.diagnose(program, program.rows, num_samples=5, verbose=False)
    assert found.use is not None and found.calibration is not None
    assert set(found.skipped) == {"amortization gap"}
    vae = small_vae(prior=pv.priors.Bernoulli(3), guide=pv.guides.Bernoulli())
    found = pv.diagnose(vae, draw_data(vae.likelihood, 20), num_samples=5, verbose=False)
    assert set(found.skipped) == {"amortization gap"}


@pytest.mark.parametrize(
    "ask",
    [
        lambda: pv.check(3, torch.zeros(4, 2)),
        lambda: pv.checks.pit(3, torch.zeros(4, 2)),
        lambda: pv.calibration.simulation_based_calibration(3),
        lambda: pv.calibration.amortization_gap(3, torch.zeros(4, 2)),
        lambda: pv.calibration.against_nuts(3, torch.zeros(4, 2)),
        lambda: pv.latents.use(3, torch.zeros(4, 2)),
        lambda: pv.latents.traverse(3, torch.zeros(4, 2)),
        lambda: pv.latents.rate_distortion({"a": 3}, torch.zeros(4, 2)),
        lambda: pv.compare({"a": 3, "b": 3}, torch.zeros(4, 2)),
        lambda: pv.draws(3, torch.zeros(4, 2)),
        lambda: pv.diagnose(3, torch.zeros(4, 2)),
    ],
)
def test_every_function_refuses_what_is_not_a_model(ask) -> None:
    with pytest.raises(TypeError, match="model must be a LatentVariableModel, such as a VAE; got int"):
        ask()


def test_max_rows_and_statistics_are_used_and_the_report_is_plotted() -> None:
    vae = small_vae()
    x = draw_data(vae.likelihood, 40)
    found = pv.diagnose(
        vae, x, max_rows=10, statistics={"on": pv.statistics.on_cells}, num_samples=5, num_particles=50, verbose=False
    )
    assert found.num_rows == 10 and set(found.checks.statistics) == {"on"}
    axes = found.plot()
    assert len(axes) == 7
    axes[0].figure.canvas.draw()
    plt.close("all")


@pytest.mark.parametrize("room", [pv.calibration, pv.checks, pv.disentanglement, pv.latents, pv.statistics])
def test_every_room_exports_the_classes_that_its_functions_return(room) -> None:
    functions = [value for name in room.__all__ if inspect.isfunction(value := getattr(room, name))]
    assert functions
    for function in functions:
        returned = get_type_hints(function)["return"]
        if getattr(returned, "__module__", "").startswith("pyro_vae"):
            assert returned.__name__ in room.__all__
