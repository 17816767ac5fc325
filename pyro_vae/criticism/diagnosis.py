"""One report on a fitted model: training, evidence, latents, encoder and predictive checks, with advice."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from pyro_vae.arguments import positive_integer, true_or_false
from pyro_vae.criticism import calibration, checks, latents
from pyro_vae.criticism.calibration import AmortizationGap, Calibration
from pyro_vae.criticism.checks import Checks
from pyro_vae.criticism.checks.fields import split_fields
from pyro_vae.criticism.checks.tails import RATE_OF_DATA_SETS
from pyro_vae.criticism.latents import LatentUse
from pyro_vae.criticism.statistics import Statistic
from pyro_vae.evaluation import AuditedLogLikelihood, BoundResult, LogLikelihood, UnreliableWarning
from pyro_vae.inference import pareto
from pyro_vae.model import LatentVariableModel, check_model
from pyro_vae.runtime.display import Shown, html_table
from pyro_vae.runtime.random import seeded
from pyro_vae.training.convergence import Convergence
from pyro_vae.training.history import History

__all__ = ["FEWEST_ROWS", "Diagnosis", "Finding", "diagnose"]

# A true model with an exact guide raises a concern in at most 5 % of data sets, by all tests together: .025 and .01 for
# statistics of data sets and of rows, .01 for `Calibration.miscalibrated`, and a remainder for the rest, whose bounds
# are several standard errors wide.
AUDITED_ROWS = 50
FEWEST_ROWS = 3  # to compare latents of rows, and to have a variance when one is left out
SMALL_DIFFERENCE = 0.1  # nats per row by which importance sampling may be too low


@dataclass(frozen=True, repr=False)
class Finding(Shown):
    """One finding of the report.

    Attributes:
        about: what was examined.
        found: what was found, in words and numbers.
        advice: what to do about it; empty where nothing is wrong.
    """

    about: str
    found: str
    advice: str = ""

    def __str__(self) -> str:
        line = f"{'!' if self.advice else ' '} {self.about}: {self.found}"
        return f"{line}\n    {self.advice}" if self.advice else line


@dataclass(frozen=True, repr=False)
class Diagnosis(Shown):
    """The report on a model and rows: `print` it, or use its parts.

    Attributes:
        findings: all findings, in the order of the report.
        bound: the ELBO and its parts.
        log_likelihood: log p(x) by importance sampling, with k-hat.
        use: how the latents are used; None where a latent is global.
        calibration: simulation-based calibration of the guide; None where the model does not allow it.
        gap: amortization gap of the encoder; None where the guide cannot be refined.
        checks: predictive checks; None where x is made of several data sites.
        num_rows: number of rows examined.
        skipped: what was not done, and why.
        audit: mean log p(x), corrected by annealing on 50 rows; None where 5 % of the rows or fewer are flagged.
        convergence: whether training had converged; None where the history of the model is not known.
    """

    findings: list[Finding]
    bound: BoundResult
    log_likelihood: LogLikelihood
    use: LatentUse | None
    calibration: Calibration | None
    gap: AmortizationGap | None
    checks: Checks | None
    num_rows: int
    skipped: dict[str, str] = field(default_factory=dict)
    audit: AuditedLogLikelihood | None = None
    convergence: Convergence | None = None

    @property
    def concerns(self) -> list[Finding]:
        """The findings that ask for action."""
        return [finding for finding in self.findings if finding.advice]

    def __str__(self) -> str:
        count = f"{len(self.concerns)} of {len(self.findings)} findings ask for action"
        lines = [f"Diagnosis on {self.num_rows} rows: {count}", *map(str, self.findings)]
        lines += [f"- {what}: not done. {why}" for what, why in self.skipped.items()]
        if self.checks is not None:
            lines += ["", str(self.checks)]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        ordered = [*self.concerns, *(finding for finding in self.findings if not finding.advice)]
        lines = [("action" if f.advice else "", f.about, f.found, f.advice) for f in ordered]
        lines += [("not done", what, why, "") for what, why in self.skipped.items()]
        head = str(self).splitlines()[0]
        return f"<p>{head}</p>{html_table(('', 'about', 'found', 'what to do'), lines)}"

    def plot(self) -> Any:
        """All figures of the report in one; returns an array of matplotlib axes."""
        from pyro_vae import plots

        sites = {} if self.use is None else self.use.sites
        sites = {name: site for name, site in sites.items() if site.kl_per_dimension is not None}
        drawn = [self.log_likelihood.plot, *(site.plot for site in sites.values())]
        if self.calibration is not None:
            drawn += [self.calibration.plot, self.calibration.plot_coverage]
        count = 0 if self.checks is None else len(self.checks.statistics) + 2
        axes = plots.grid(len(drawn) + count)
        for draw, ax in zip(drawn, axes, strict=False):
            draw(ax=ax)
        if self.checks is not None:
            self.checks.plot(axes[len(drawn) :])
        return axes


def diagnose(
    model: LatentVariableModel,
    x: Any,
    *,
    statistics: Mapping[str, Statistic] | None = None,
    history: History | None = None,
    max_rows: int = 500,
    num_particles: int = 1000,
    num_samples: int = 100,
    seed: int | None = 0,
    verbose: bool = True,
    **fields: Any,
) -> Diagnosis:
    """Examine a fitted model: training, evidence, latents, encoder, predictive checks. Prints and returns the report.

    Whether training had converged comes first, since more epochs may mend what follows. What the model does not allow
    is left out, with the reason (`Diagnosis.skipped`).

    Args:
        model: the fitted model.
        x: rows (N, *E), in any form that `fit` takes, preferably rows that the model was not trained on.
        statistics: functions of data by name, as in `pv.check`.
        history: the table of the epochs that the model was trained for, as `fit` returned it; by default the model's
            own, which a saved model brings along.
        max_rows: largest number of rows examined; the first ones are taken.
        num_particles: draws per row for the log-likelihood and k-hat.
        num_samples: number of replicated data sets for the checks.
        seed: seed of all draws; None to use the global random state.
        verbose: whether to print the report.
        **fields: named per-row fields, as in `elbo`.

    Raises:
        ValueError: if x or a field does not suit the model, or x is fewer than three rows.
        TypeError: if `history` is no table of epochs.
    """
    true_or_false("verbose", verbose)
    check_model(model)
    if not isinstance(history, History | None):
        raise TypeError(f"history must be the table that `fit` returns; got {history!r}. Leave it out, or pass that.")
    known = model.history if history is None else history
    convergence = known.convergence() if len(known) else None
    fields, of_statistics = split_fields(model, statistics, fields)
    rows, names = model.read_rows(x, fields)
    rows = rows.with_fields(of_statistics) if of_statistics else rows
    rows = rows.subset(slice(0, positive_integer("max_rows", max_rows, FEWEST_ROWS)))
    if len(rows) < FEWEST_ROWS:
        raise ValueError(f"x must be at least {FEWEST_ROWS} rows to be diagnosed; got {len(rows)}. Pass more rows.")
    named: dict[str, Any] = {"fields": ("x", *names)} if names else {}
    skipped: dict[str, str] = {}

    def attempt(what: str, call: Any) -> Any:
        try:
            return call()
        except NotImplementedError as error:
            skipped[what] = str(error)
            return None

    with seeded(seed), warnings.catch_warnings():
        warnings.simplefilter("ignore", UnreliableWarning)  # the report says so itself
        rows = rows.drawn(model.like)
        bound = model.elbo(rows, **named)
        score = model.log_likelihood(rows, num_particles=num_particles, **named)
        audit = None
        if not score.error_holds:
            audit = attempt(
                "annealing of log p(x)",
                lambda: model.audited_log_likelihood(rows, num_rows=AUDITED_ROWS, num_particles=num_particles, **named),
            )
        use = attempt("use of latents", lambda: latents.use(model, rows, **named))
        batch = rows.take(slice(None), names, like=model.like)
        covariates: dict[str, Any] = {name: batch[name] for name in names}
        size = len(rows) if covariates else 500
        sbc = attempt(
            "calibration", lambda: calibration.simulation_based_calibration(model, num_rows=size, **covariates)
        )
        few = rows if score.joint else rows.subset(slice(0, 100))
        gap = attempt("amortization gap", lambda: calibration.amortization_gap(model, few, steps=50, **named))
        checked = attempt(
            "predictive checks", lambda: checks.check(model, rows, statistics, num_samples=num_samples, **named)
        )
    findings = [
        *([] if convergence is None else [Finding("training", str(convergence), convergence.advice)]),
        _about_score(score, bound, audit),
        *_about_latents(use),
        *_about_encoder(sbc, gap, score.joint),
        *_about_checks(checked, score.joint),
    ]
    result = Diagnosis(findings, bound, score, use, sbc, gap, checked, len(rows), skipped, audit, convergence)
    if verbose:
        from pyro_vae import reporting

        reporting.show(str(result))
    return result


def _about_score(score: LogLikelihood, bound: BoundResult, audit: AuditedLogLikelihood | None) -> Finding:
    """log p(x), by annealing where importance sampling is not to be relied on; that is a concern if it is too low."""
    mean = score.mean() if audit is None else audit.mean()
    gap = mean.estimate - bound.mean().estimate
    unit = "for all rows together" if score.joint else "per row"
    flagged = f"k-hat {float(score.khat):.2f}" if score.joint else f"{score.flagged_share:.0%} of rows flagged by k-hat"
    text, advice = f"log p(x) {mean} nats {unit}, {gap:.2f} above the ELBO; {flagged}", ""
    remedies = "a richer guide (guides.MultivariateNormal, guides.Flow), or training with elbos.IWAE"
    if audit is not None:
        low = audit.difference()
        rows = "" if score.joint else f" on {len(audit.index)} random rows"
        side = "lower" if low.estimate >= 0 else "higher"
        text += f"; importance sampling is {abs(low.estimate):.2f} nats {side} than annealing{rows}"
        if low.estimate > max(SMALL_DIFFERENCE, 3 * low.monte_carlo_error):
            advice = (
                "log_likelihood(x) is too low for this model: report audited_log_likelihood(x), and compare models by"
                f" method='ais'. What helps: {remedies}."
            )
        elif not audit.corrects:
            advice = f"By how much both are too low is unknown. What helps: more steps of annealing, {remedies}."
    elif not score.error_holds:
        advice = f"log_likelihood(x) is too low for this model. What helps: more particles, {remedies}."
        if int(torch.as_tensor(score.num_particles).max()) < pareto.MIN_PARTICLES:
            advice = f"Whether this is too low is unknown: num_particles must be at least {pareto.MIN_PARTICLES}."
    return Finding("evidence", text, advice)


def _about_latents(use: LatentUse | None) -> list[Finding]:
    if use is None:
        return []
    findings = []
    for name, site in use.sites.items():
        active, total = int(site.active.sum()), len(site.active)
        advice = f"Collapsed: {latents.REMEDIES}." if active == 0 else ""
        found = f"{active} of {total} units active, KL {site.kl.estimate:.2f} nats"
        findings.append(Finding(f"latents at {name}", found, advice))
    excess, limit = use.aggregate_kl - 3 * use.aggregate_kl_error, math.log(use.information_rows)
    information = use.mutual_information.estimate
    capped = information > limit - 2
    note = f" (probably too low: its limit, the log of the number of rows, is {limit:.2f})" if capped else ""
    at_most = "at most " if capped and use.aggregate_kl > 2 * use.aggregate_kl_error else ""
    found = f"I(row; z) {information:.2f} nats{note}; KL(q(z) || p(z)) {at_most}{use.aggregate_kl_text}"
    advice = ""
    if excess > max(1.0, 0.2 * use.kl.estimate) and not capped:
        advice = (
            "Draws from the prior fall where there are no rows: use priors.VampPrior, priors.Mixture or priors.Flow, or"
            " set vae.prior = vae.fit_aggregate_posterior(x) after training."
        )
    return [*findings, Finding("information", found, advice)]


def _about_encoder(sbc: Calibration | None, gap: AmortizationGap | None, joint: bool) -> list[Finding]:
    findings = []
    if sbc is not None:
        wrong = len(sbc.miscalibrated)
        advice, excess = "", float(sbc.shape().mean())
        if wrong:
            shape = "too narrow (ranks form a U)" if excess > 0.05 else "too wide" if excess < -0.05 else "shifted"
            advice = f"On simulated rows q(z | x) is {shape}: use a guide with correlations, or a larger encoder."
        covered = float(sbc.coverage((0.9,)).mean())
        text = f"{wrong} of {len(sbc.names)} coordinates miscalibrated; 90% intervals cover {covered:.1%}"
        findings.append(Finding("encoder on simulated rows", text, advice))
    if gap is not None:
        advice = ""
        if gap.gap.estimate > max(1.0, 3 * gap.gap.monte_carlo_error):
            advice = "Close the gap by a larger encoder, longer training or refinement (method='semi_amortized')."
        unit = "for all rows together" if joint else "per row"
        findings.append(Finding("amortization gap", f"{gap.gap} nats {unit}", advice))
    return findings


def _about_checks(found: Checks | None, joint: bool) -> list[Finding]:
    if found is None:
        return []
    worst, of_rows = found.disagreeing, [one.of_rows for one in found.statistics.values()]
    fewest = math.ceil(1 / RATE_OF_DATA_SETS) - 1
    advice = ""
    if worst:
        advice = "The model does not generate such data: look at checks.plot(), and try another likelihood or decoder."
    nominal = found.pit.overall((0.9,))[0]
    off = abs(nominal["coverage"] - 0.9)
    text = (
        f"{len(worst)} of {len(found.statistics)} statistics disagree with the model"
        + (f" ({', '.join(worst)})" if worst else "")
        + (
            f" ({found.num_samples} replicates are too few to test statistics of the data set: num_samples must be at"
            f" least {fewest})"
            if found.num_samples < fewest and not all(of_rows)
            else ""
        )
        + f"; 90% predictive intervals cover {nominal['coverage']:.1%} +- {nominal['standard error']:.1%}"
    )
    if not advice and not joint and off > max(0.02, 4 * nominal["standard error"]):
        advice = "Predictive intervals have the wrong width: check the dispersion of the likelihood."
    return [Finding("predictive checks", text, advice)]
