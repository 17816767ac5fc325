"""Discrete latents that are summed out in log-weights: closed forms, sums written out, Pyro's own enumeration."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pyro.infer
import pytest
import torch
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae import elbos, evaluation
from pyro_vae.inference.labels import Labelled
from pyro_vae.inference.weights import LogWeights

C, CELLS = 3, 2


class Mixture(pv.LatentVariableModel):
    """y ~ Categorical, z | y ~ N(m_y, s_y^2), x | y, z ~ N(a_y z + b_y, t^2 I): everything has a closed form.

    Args:
        in_guide: whether the guide has q(y | x) and q(z | x, y); else it has q(z | x) alone.
        exact: whether q(z | x, y) is p(z | x, y).
    """

    def __init__(self, in_guide: bool = True, exact: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(4)

        def draw(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator, dtype=torch.float64))

        self.in_guide, self.exact = in_guide, exact
        self.logits, self.mean, self.log_width = draw(C), draw(C), nn.Parameter(0.3 * draw(C).detach())
        self.slope, self.shift = draw(C, CELLS), draw(C, CELLS)
        self.log_scale = nn.Parameter(torch.tensor(-0.3, dtype=torch.float64))
        self.classifier, self.bias = draw(CELLS, C), draw(C)
        self.guide_slope, self.guide_mean = draw(CELLS, C), draw(C)
        self.guide_log_scale = nn.Parameter(torch.tensor([0.1, -0.2, 0.0], dtype=torch.float64))

    def model(self, x: Tensor | None = None, *, rows: int | None = None, label: Tensor | None = None) -> None:
        with pyro.plate("data", len(x) if x is not None else rows):
            y = pv.sample_label("y", dist.Categorical(logits=self.logits), label)
            z = pyro.sample("z", dist.Normal(self.mean[y], self.log_width[y].exp()))
            loc = self.slope[y] * z.unsqueeze(-1) + self.shift[y]
            pyro.sample("x", dist.Normal(loc, self.log_scale.exp()).to_event(1), obs=x)

    def guide(self, x: Tensor, *, label: Tensor | None = None) -> None:
        with pyro.plate("data", len(x)):
            if not self.in_guide:
                loc = x @ self.guide_slope[:, 0] + self.guide_mean[0]
                pyro.sample("z", dist.Normal(loc, 1.0))
                return
            y = pv.sample_label("y", dist.Categorical(logits=x @ self.classifier + self.bias), label)
            pyro.sample("z", self.posterior(x, y) if self.exact else self.amortized(x, y))

    def amortized(self, x: Tensor, y: Tensor) -> dist.Normal:
        loc = (x.unsqueeze(-1) * self.guide_slope)[..., y].sum(-2) if y.dim() == 0 else self._loc(x, y)
        return dist.Normal(loc, self.guide_log_scale[y].exp())

    def _loc(self, x: Tensor, y: Tensor) -> Tensor:
        return (x * self.guide_slope.T[y]).sum(-1) + self.guide_mean[y]

    def posterior(self, x: Tensor, y: Tensor) -> dist.Normal:
        """p(z | x, y)."""
        noise = (-2 * self.log_scale).exp()
        prior = (-2 * self.log_width[y]).exp()
        precision = prior + noise * self.slope[y].square().sum(-1)
        scaled = prior * self.mean[y] + noise * (self.slope[y] * (x - self.shift[y])).sum(-1)
        return dist.Normal(scaled / precision, precision.rsqrt())

    def log_joint(self, x: Tensor) -> Tensor:
        """log p(x, y) for every y: (B, C)."""
        loc = self.shift + self.slope * self.mean.unsqueeze(-1)
        outer = self.slope.unsqueeze(-1) * self.slope.unsqueeze(-2) * self.log_width.mul(2).exp().reshape(-1, 1, 1)
        covariance = outer + self.log_scale.mul(2).exp() * torch.eye(CELLS, dtype=torch.float64)
        return dist.MultivariateNormal(loc, covariance).log_prob(x.unsqueeze(1)) + self.logits.log_softmax(-1)

    def log_evidence(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        joint = self.log_joint(x)
        summed = torch.logsumexp(joint, -1)
        if label is None:
            return summed
        return torch.where(label >= 0, joint.gather(1, label.clamp_min(0).unsqueeze(1)).squeeze(1), summed)

    def terms(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x, y, z) and log q(z | x, y) for every y, (C, K, B), at draws z (C, K, B)."""
        p, q = [], []
        for y in range(C):
            here = torch.full(x.shape[:1], y)
            prior = dist.Normal(self.mean[y], self.log_width[y].exp()).log_prob(z[y])
            loc = self.slope[y] * z[y].unsqueeze(-1) + self.shift[y]
            data = dist.Normal(loc, self.log_scale.exp()).log_prob(x).sum(-1)
            p.append(prior + data + self.logits.log_softmax(-1)[y])
            q.append((self.posterior(x, here) if self.exact else self.amortized(x, here)).log_prob(z[y]))
        return torch.stack(p), torch.stack(q)


pytestmark = pytest.mark.usefixtures("plain_pyro")

X = torch.randn(5, CELLS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
LABEL = torch.tensor([-1, 2, -1, 0, 1])
FIELDS = {"none": {}, "some": {"label": LABEL}}


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
@pytest.mark.parametrize("num_particles", [1, 3])
def test_weights_with_the_exact_guide_have_no_variance(num_particles: int, fields: dict[str, Tensor]) -> None:
    program = Mixture(exact=True)
    weights = pv.log_weights(program.model, program.guide, X, num_particles=num_particles, **fields)
    exact = program.log_evidence(X, **fields).detach()
    np.testing.assert_allclose(weights.log_w.detach(), exact.expand(num_particles, -1), atol=1e-12)
    np.testing.assert_allclose(
        (weights.log_likelihood + weights.log_prior - weights.log_guide).detach(), weights.log_w.detach(), atol=1e-12
    )


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
@pytest.mark.parametrize("in_guide", [True, False])
def test_log_likelihood_is_that_of_the_closed_form(in_guide: bool, fields: dict[str, Tensor]) -> None:
    program = Mixture(in_guide)
    exact = program.log_evidence(X, **fields).detach()
    for method in ("importance", evaluation.AIS(num_steps=20, compile=False)):
        found = program.log_likelihood(X, num_particles=400, method=method, seed=0, **fields)
        assert ((found.estimate - exact).abs() < 5 * found.standard_error + 1e-9).all(), (
            method,
            found.estimate - exact,
        )


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
def test_the_objective_and_its_gradient_are_those_of_pyros_enumeration(fields: dict[str, Tensor]) -> None:
    program = Mixture()
    unknown = {} if not fields else {"label": torch.full((5,), -1)}
    parameters = list(program.parameters())
    found = []
    for elbo in (elbos.ELBO(), elbos.from_pyro(pyro.infer.TraceEnum_ELBO(max_plate_nesting=1))):
        torch.manual_seed(0)
        terms = elbo.run(program.model, program.guide, X, num_rows=50, **unknown)
        gradients = torch.autograd.grad(terms.objective, parameters)
        found.append([terms.objective, *gradients])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours.detach(), theirs.detach(), rtol=1e-10, atol=1e-10)


def weights_by_hand(
    program: Mixture, x: Tensor, num_particles: int, label: Tensor, attached: bool
) -> tuple[Tensor, Tensor]:
    """The log-weights (K, B), and the objective's terms for q(y | x), (K, B), by sums that are written out.

    The second have gradients through the responsibilities if `attached`.
    """
    z = torch.stack([program.amortized(x, torch.full(x.shape[:1], y)).rsample((num_particles,)) for y in range(C)])
    p, q = program.terms(x, z)
    a = p - q
    log_q = (x @ program.classifier + program.bias).log_softmax(-1).T.unsqueeze(1)  # (C, 1, B)
    pick = label.clamp_min(0).expand(1, num_particles, -1)
    log_w = torch.where(label >= 0, a.gather(0, pick)[0], torch.logsumexp(a, 0))
    a = a if attached else a.detach()
    kl = (log_q.exp() * (log_q - a + torch.logsumexp(a, 0))).sum(0)
    loss = -log_q.expand(-1, num_particles, -1).gather(0, pick)[0]
    return log_w, torch.where(label >= 0, loss, kl)


def gradients(objective: Tensor, program: Mixture) -> Tensor:
    """The gradient as one vector."""
    found = torch.autograd.grad(objective, list(program.parameters()), allow_unused=True, materialize_grads=True)
    return torch.cat([gradient.reshape(-1) for gradient in found])


MANY, REPEATS = 600, 12
BOUNDS = {
    "elbo": (elbos.ELBO, 1, lambda log_w: log_w.mean(0)),
    "iwae": (elbos.IWAE, 3, lambda log_w: torch.logsumexp(log_w, 0) - math.log(3)),
}


GRADIENTS = ("reparameterized", "stl", "dreg", "rloo", "vimco")
# The mean of sticking the landing is a gradient of the ELBO alone.
UNBIASED = [(name, g) for name in BOUNDS for g in GRADIENTS if (name, g) != ("iwae", "stl")]


@pytest.mark.parametrize("label", [-1, 1], ids=["unknown", "label"])
@pytest.mark.parametrize(("name", "gradient"), UNBIASED)
def test_every_gradient_estimator_has_the_mean_of_the_sum_written_out(name: str, gradient: str, label: int) -> None:
    kind, num_particles, bound = BOUNDS[name]
    if gradient in ("rloo", "vimco"):
        num_particles = 3
        bound = bound if name == "iwae" else lambda log_w: log_w.mean(0)
    program = Mixture()
    x, labels = X[:1].expand(MANY, -1), torch.full((MANY,), label)
    elbo = kind(num_particles=num_particles, gradient=gradient)
    torch.manual_seed(3)
    ours, by_hand = [], []
    for _ in range(REPEATS):
        terms = elbo.run(program.model, program.guide, x, label=labels)
        ours.append(gradients(terms.objective / MANY, program))
        log_w, rest = weights_by_hand(program, x, num_particles, labels, gradient == "reparameterized")
        by_hand.append(gradients((bound(log_w) - rest.mean(0)).mean(), program))
    a, b = torch.stack(ours), torch.stack(by_hand)
    error = ((a.var(0) + b.var(0)) / REPEATS).sqrt()
    assert ((a.mean(0) - b.mean(0)).abs() < 5.5 * error + 1e-9).all(), (a.mean(0), b.mean(0), error)


def test_chunks_of_particles_are_joined() -> None:
    program = Mixture(exact=True)
    records = [pv.log_weights(program.model, program.guide, X, num_particles=k, label=LABEL) for k in (2, 1, 3)]
    whole = LogWeights.joined(records)
    exact = program.log_evidence(X, LABEL).detach()
    np.testing.assert_allclose(whole.log_w.detach(), exact.expand(6, -1), atol=1e-12)
    assert {name: value.shape for name, value in whole.draw_latents().items()} == {"y": (6, 5), "z": (6, 5)}


def test_the_objective_is_linear_in_the_weight_of_the_kl() -> None:
    program = Mixture()
    found = []
    for weight in (0.0, 1.0, 0.5):
        torch.manual_seed(0)
        terms = elbos.ELBO(kl_weight=weight).run(program.model, program.guide, X, label=LABEL)
        found.append(gradients(terms.objective, program))
    np.testing.assert_allclose(found[2], (found[0] + found[1]) / 2, atol=1e-12)


def test_the_bound_reported_is_that_of_the_log_weights_and_lies_below_the_evidence() -> None:
    program = Mixture()
    result = program.elbo(X, num_particles=400, seed=0)
    assert (result.bound < program.log_evidence(X) + 5 * result.standard_error).all()
    torch.manual_seed(0)
    terms = elbos.ELBO(num_particles=4).run(program.model, program.guide, X)
    assert terms.weights is not None
    np.testing.assert_allclose(terms.bound.detach(), terms.weights.log_w.mean(0).detach(), atol=1e-12)
    assert terms.objective < terms.bound.sum()  # it pays for the guide's q(y | x), too


class TwoLabels(Mixture):
    """A second discrete latent, v ~ Bernoulli(p_y), in the model alone; it shifts x."""

    def model(self, x: Tensor | None = None, *, rows: int | None = None, label: Tensor | None = None) -> None:
        with pyro.plate("data", len(x) if x is not None else rows):
            y = pv.sample_label("y", dist.Categorical(logits=self.logits), label)
            v = pv.sample_label("v", dist.Bernoulli(logits=self.mean[y]))
            z = pyro.sample("z", dist.Normal(self.mean[y], self.log_width[y].exp()))
            loc = self.slope[y] * z.unsqueeze(-1) + self.shift[y] + v.unsqueeze(-1)
            pyro.sample("x", dist.Normal(loc, self.log_scale.exp()).to_event(1), obs=x)

    def log_evidence(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        joints = [
            self.log_joint(x - v) + dist.Bernoulli(logits=self.mean).log_prob(torch.tensor(v)) for v in (0.0, 1.0)
        ]
        joint = torch.logsumexp(torch.stack(joints), 0)
        summed = torch.logsumexp(joint, -1)
        if label is None:
            return summed
        return torch.where(label >= 0, joint.gather(1, label.clamp_min(0).unsqueeze(1)).squeeze(1), summed)


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
def test_two_sites_are_summed_out_together(fields: dict[str, Tensor]) -> None:
    program = TwoLabels()
    found = program.log_likelihood(X, num_particles=2000, seed=0, **fields)
    exact = program.log_evidence(X, **fields).detach()
    assert ((found.estimate - exact).abs() < 5 * found.standard_error).all()
    weights = pv.log_weights(program.model, program.guide, X, num_particles=4, **fields)
    parts = weights.log_likelihood + weights.log_prior - weights.log_guide
    assert list(weights.guide) == ["y", "z", "v"]
    np.testing.assert_allclose(parts.detach(), weights.enumeration.log_sum(weights.enumeration.log_terms).detach())
    objective = elbos.ELBO().run(program.model, program.guide, X, **fields).objective
    assert all(g is not None for g in torch.autograd.grad(objective, [program.classifier, program.logits]))


def assert_shares(drawn: Tensor, probabilities: Tensor) -> None:
    """Values 0, 1, ... drawn for each row, (S, B), have these probabilities, (B, C)."""
    count = len(drawn)
    shares = (drawn.unsqueeze(-1) == torch.arange(probabilities.shape[1])).double().mean(0)
    error = (probabilities * (1 - probabilities) / count).sqrt()
    assert ((shares - probabilities).abs() < 5 * error + 1e-3).all(), (shares, probabilities)


@pytest.mark.parametrize("in_guide", [True, False])
def test_candidates_are_joint_draws_from_the_posterior(in_guide: bool) -> None:
    program = Mixture(in_guide, exact=in_guide)
    posterior = program.log_joint(X).softmax(-1).detach()
    draws = program.posterior_draws(X, num_samples=4000, num_candidates=20000, seed=0)
    assert_shares(draws["y"], posterior)
    means = torch.stack([program.posterior(X, torch.full((5,), y)).mean for y in range(C)], -1).detach()
    for y in range(C):  # z belongs to the y that it was drawn with
        chosen = draws["y"] == y
        mean = (draws["z"] * chosen).sum(0) / chosen.sum(0)
        assert ((mean - means[:, y]).abs() < 0.25)[chosen.sum(0) > 400].all()


def test_plain_draws_take_the_label_that_the_guide_lacks_from_the_model() -> None:
    program = Mixture(in_guide=False)
    draws = program.posterior_draws(X, num_samples=4000, seed=0)
    assert draws["y"].shape == draws["z"].shape == (4000, 5)
    p, _ = program.terms(X, draws["z"].expand(C, -1, -1))
    assert_shares(draws["y"], p.softmax(0).mean(1).T.detach())
    assert program.posterior_predictive(X, num_samples=3, seed=0).shape == (3, 5, CELLS)


def test_draws_keep_known_labels() -> None:
    program, known = Mixture(), LABEL >= 0
    for options in ({}, {"num_candidates": 50}):
        drawn = program.posterior_draws(X, num_samples=20, seed=0, label=LABEL, **options)["y"]
        assert (drawn[:, known] == LABEL[known]).all()
        assert (drawn[:, ~known] != -1).all()
    assert (program.simulate(5, seed=0, label=LABEL)["y"][known] == LABEL[known]).all()


def test_a_condition_is_summed_out_with_its_own_responsibilities() -> None:
    program, given = Mixture(), torch.tensor([True, False])
    with torch.no_grad():
        program.guide_log_scale += 0.8  # a guide that is wider than the posterior has weights without heavy tails
    found = program.conditional_log_likelihood(X, given, num_particles=4000, seed=0)
    loc = program.shift + program.slope * program.mean.unsqueeze(-1)
    variance = program.slope.square() * program.log_width.mul(2).exp().unsqueeze(-1) + program.log_scale.mul(2).exp()
    cell = dist.Normal(loc[:, 0], variance[:, 0].sqrt()).log_prob(X[:, :1]) + program.logits.log_softmax(-1)
    exact = (program.log_evidence(X) - torch.logsumexp(cell, -1)).detach()
    assert ((found.estimate - exact).abs() < 5 * found.standard_error + 1e-3).all()


def test_simulated_rows_lie_between_the_bounds_of_annealing() -> None:
    program = Mixture()
    result = program.sandwich(20, num_particles=64, method=evaluation.AIS(num_steps=40), seed=0)
    exact = program.log_evidence(result.x).mean().item()
    assert abs(result.lower.mean().estimate - exact) < 0.05
    assert abs(result.upper.mean().estimate - exact) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize(
    "elbo", [None, elbos.IWAE(num_particles=3, gradient="dreg"), elbos.ELBO(num_particles=3, gradient="rloo")]
)
def test_compiled_steps_are_those_of_python(elbo: elbos.Estimator | None) -> None:
    found = []
    for compile in (False, True):
        program = Mixture()
        options = {"epochs": 2, "batch_size": 3, "seed": 0, "progress": False}
        program.fit(X, fields={"label": LABEL}, elbo=elbo, compile=compile, **options)
        found.append(torch.cat([p.detach().reshape(-1) for p in program.parameters()]))
    np.testing.assert_allclose(*found, atol=1e-12)


class Outside(Mixture):
    def model(self, x=None, *, rows=None, label=None):
        y = pyro.sample("y", dist.Categorical(logits=self.logits), infer={"enumerate": "parallel"})
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(self.shift[y], 1.0).to_event(1), obs=x)

    def guide(self, x, *, label=None):
        pass


class Within(Outside):
    def model(self, x=None, *, rows=None, label=None):
        rows = pyro.plate("data", len(x), dim=-1)
        with pyro.plate("cells", 2, dim=-2), rows:
            pyro.sample("y", dist.Categorical(logits=self.logits), infer={"enumerate": "parallel"})
        with rows:
            pyro.sample("x", dist.Normal(self.shift[0], 1.0).to_event(1), obs=x)


class Endless(Outside):
    def model(self, x=None, *, rows=None, label=None):
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Poisson(self.mean[0].exp()), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(self.shift[0], 1.0).to_event(1), obs=x)


class Narrow(Outside):
    def model(self, x=None, *, rows=None, label=None):
        with pyro.plate("data", len(x)):
            y = pv.sample_label("y", dist.Categorical(logits=self.logits))
            loc = torch.cat([y.unsqueeze(-1).to(x), x[:, :1].expand(*y.shape, 1)], -1)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            Outside,
            "Site 'y', which is to be summed out, must lie in the row plate 'data' and in no other; got no plate",
        ),
        (Within, "must lie in the row plate 'data' and in no other; got 'data', 'cells'|got 'cells', 'data'"),
        (Endless, "must have finitely many values that can be listed; got Poisson"),
    ],
)
@pytest.mark.parametrize("num_particles", [1, 2])
def test_a_site_that_cannot_be_summed_out_is_refused(kind: type[Mixture], message: str, num_particles: int) -> None:
    program = kind()
    with pytest.raises(ValueError, match=message):
        pv.log_weights(program.model, program.guide, X, num_particles=num_particles)


def test_programs_that_read_one_value_at_a_time_are_refused() -> None:
    program = Narrow()  # with one particle torch's own error says what does not fit
    with pytest.raises(ValueError, match="must accept all values of 'y' at once"):
        pv.log_weights(program.model, program.guide, X, num_particles=2)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (torch.tensor([0, 1, 2, 3, 0]), "must be an integer that Categorical can draw.*; got 3 in row 3"),
        (torch.tensor([0, 1, -2, 0, 0]), "got -2 in row 2"),
        (torch.tensor([0.0, 1.5, -1.0, 0.0, 0.0]), "got 1.5 in row 1"),
        (torch.tensor([0, 1]), "label at site 'y' must have one number for each of the 5 rows"),
        (torch.zeros(5, 1).long(), r"must have shape \(rows,\); got \(5, 1\)"),
    ],
)
def test_an_impossible_label_is_refused(label: Tensor, message: str) -> None:
    program = Mixture()
    with pytest.raises(ValueError, match=message):
        pv.log_weights(program.model, program.guide, X, label=label)


def test_unknown_labels_may_be_nan() -> None:
    program = Mixture(exact=True)
    label = torch.where(LABEL >= 0, LABEL.double(), torch.nan)
    weights = pv.log_weights(program.model, program.guide, X, label=label)
    np.testing.assert_allclose(weights.log_w[0].detach(), program.log_evidence(X, LABEL).detach(), atol=1e-12)


def test_what_is_not_built_is_refused() -> None:
    program = Mixture()
    refused = [
        (NotImplementedError, "label must be unknown in every row", pyro.infer.TraceEnum_ELBO(max_plate_nesting=1)),
        (NotImplementedError, "FreeBitsELBO with sites that are summed out is not built", elbos.FreeBitsELBO()),
        (NotImplementedError, "gradient must be 'score' for WakeSleep", elbos.WakeSleep(gradient="dreg")),
        (
            NotImplementedError,
            "gradient must be 'score' for WakeSleep",
            elbos.WakeSleep(gradient="dreg", num_particles=4, max_particles_at_once=2),
        ),
    ]
    for kind, message, elbo in refused:
        with pytest.raises(kind, match=message):
            elbos.from_pyro(elbo).run(program.model, program.guide, X, label=LABEL)
    with pytest.raises(NotImplementedError, match="refined by moving the parameters of distributions with derivatives"):
        program.log_likelihood(X, method="semi_amortized", num_particles=5)
    with pytest.raises(NotImplementedError, match="The use of latents is measured where all are drawn; got 'y'"):
        pv.latents.use(program, X, num_particles=5)
    with pytest.raises(ValueError, match="classifier_weight must be zero or more; got -1"):
        pv.sample_label("y", dist.Bernoulli(0.5), classifier_weight=-1.0)
    with pytest.raises(ValueError, match="must have single numbers as values for labels"):
        pv.sample_label("y", dist.OneHotCategorical(torch.ones(3)), torch.zeros(2).long())


def test_a_labelled_distribution_draws_its_labels() -> None:
    fn = Labelled(dist.Categorical(torch.ones(3)), LABEL)
    assert fn.batch_shape == (5,)
    assert (fn.expand([2, 5]).sample()[:, LABEL >= 0] == LABEL[LABEL >= 0]).all()
    np.testing.assert_allclose(fn.log_prob(torch.zeros(5).long()), math.log(1 / 3), rtol=1e-6)
