"""The examples run as scripts, draw their figures and print the tables that they announce."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import matplotlib
import pytest

matplotlib.use("Agg")

import matplotlib.pyplot as plt

EXAMPLES = Path(__file__).parents[1] / "examples"
NUMBER = r"\s*-?\d+\.\d+"
WITH_ERROR = NUMBER + r" \+- \d+\.\d+"

# For every example, regular expressions that its output must match.
SLOW = ("guides.py", "sharper_samples.py", "sklearn_pipeline.py")
PROMISES = {
    "autoencoder_beside_vae.py": (
        "nats per row",
        rf"\bAE{WITH_ERROR}",
        rf"\bVAE{WITH_ERROR}",
        f"real test digits{WITH_ERROR * 2} %",
        rf"AE, codes from N\(0, I\){WITH_ERROR * 2} %",
        f"AE, codes from a fitted normal{WITH_ERROR * 2} %",
        rf"VAE, codes from its prior N\(0, I\){WITH_ERROR * 2} %",
        f"ELBO of the VAE, nats per test row:{WITH_ERROR}",
    ),
    "calibrated_encoder.py": (
        "nats per row",
        *(
            rf"{guide}{NUMBER * 3} +\d of 3{NUMBER} %\n(.*\n)*{guide}{WITH_ERROR * 2}{NUMBER} %"
            rf"({NUMBER} \({NUMBER},{NUMBER}\)){{2}}"
            for guide in ("Normal", "MultivariateNormal", "Flow")
        ),
    ),
    "compare_models.py": (
        "nats per row",
        # no Monte Carlo error: all rows are flagged
        *(rf"{name} +>={NUMBER * 5} +\d+" for name in ("IWAE", "ELBO", "ELBO, affine encoder", "ELBO, 8 latents")),
        *(rf"\n{name}{NUMBER * 4}\n" for name in ("IWAE", "ELBO", "ELBO, affine encoder", "ELBO, 8 latents")),
        *(rf"\n{name}{WITH_ERROR * 4}\n" for name in ("ELBO", "ELBO, affine encoder", "ELBO, 8 latents")),
        *(f"{name}{WITH_ERROR}\n" for name in ("K = 50", "K = 200", "AIS, lower", "AIS, upper")),
    ),
    "conditional.py": (
        "nats per row",
        *(rf"{what} +{WITH_ERROR}" for what in (r"log p\(x \| label\)", r"log p\(x\)", "difference")),
        rf"Bayes' rule:{WITH_ERROR} % of the digits recognized",
    ),
    "first_vae.py": (
        "Nats per row",
        *(
            rf"{rows} +{what}{NUMBER} \({NUMBER},{NUMBER}\)"
            for rows in ("train", "test")
            for what in ("ELBO", "log-likelihood")
        ),
        f"test +reconstruction{NUMBER}, KL{NUMBER}",
        r"largest difference of a reconstruction: 0\.0e\+00",
    ),
    "gradient_noise.py": (
        "signal-to-noise ratio",
        *(f"{kind}{NUMBER * 6}" for kind in ("reparameterized", "stl", "dreg", "vimco", "rloo")),
    ),
    "guides.py": (
        "Nats per row",
        *(
            f"{model} +{guide}{NUMBER * 2}{WITH_ERROR}"
            for model in ("sum", "product")
            for guide in ("Normal", "MultivariateNormal", "Mixture", r"Flow, affine \(IAF\)", "Flow, spline")
        ),
    ),
    "incomplete_table.py": (
        r"Table of 442 rows and 10 columns \(pandas\)",
        *(
            rf"\n{name} +{kind} "
            for name, kind in (("age", "count"), ("ratio", "ordinal"), ("triglycerides", "positive"))
        ),
        r"3 imputations of 922 missing cells \(20\.9%\) in 410 of 442 rows",
        *(f"\n{name}{NUMBER * 6}\n" for name in ("age", "bmi", "hdl", "triglycerides")),
        *(f"\n{name}{NUMBER * 3}\n" for name in ("sex", "ratio")),
        f"within the range of their 3 imputations:{NUMBER}%; expected 50.0%",
        f"\nbmi{NUMBER * 5}",
        "Rubin's rules over 3 imputations; p-values against 0. Complete data: 436 degrees of freedom",
        *(
            rf"\n{name}, \d+ rows{NUMBER * 2}\n"
            for name in ("all cells", "complete rows", "column means", "best guess")
        ),
        *(rf"\n3 imputations, missing bmi \+ {shift}{NUMBER * 2}" for shift in (0, 2, 4, 6)),
    ),
    "interpolation.py": (
        "nats per picture",
        f"real test digits{WITH_ERROR * 3}",
        f"halfway, cross-fade{WITH_ERROR * 2}",
        f"halfway, straight{WITH_ERROR * 3}",
        f"halfway, spherical{WITH_ERROR * 3}",
        f"decoded draws from the prior{WITH_ERROR * 2}",
    ),
    "likelihoods.py": (
        "Nats per row",
        *(
            f"{name}{WITH_ERROR * 2}{NUMBER * 2}"
            for name in (
                r"truth \(reference\), data",
                *("Poisson", "ZeroInflatedPoisson", "NegativeBinomial", "ZeroInflatedNegativeBinomial"),
            )
        ),
        rf"independent columns \(reference\){WITH_ERROR * 2}",
        f"Product, two latents{WITH_ERROR * 2}",
    ),
    "linear_gaussian.py": (
        "nats per row",
        f"maximum likelihood, closed form{NUMBER}{WITH_ERROR}",
        f"true parameters, closed form{NUMBER}{WITH_ERROR}",
        f"trained VAE, closed form{NUMBER}{WITH_ERROR}",
        f"importance sampling, K = 20{NUMBER}{WITH_ERROR}",
        f"trained VAE, ELBO{NUMBER}{WITH_ERROR}",
        f"Monte Carlo standard error: importance sampling{NUMBER}, ELBO{NUMBER} nats per row",
        f"posterior mean: root mean square{NUMBER}",
    ),
    "nuts_against_guide.py": (
        "nats for all eight",
        *(rf"row {row}, {who} +({NUMBER} \({NUMBER}\)){{4}}" for row in range(3) for who in ("guide", "nuts")),
        "guide against NUTS on 3 rows",
        *(
            rf"guide, {form}({NUMBER} \({NUMBER}\)){{2}}{NUMBER * 2} \({NUMBER}\){NUMBER}\n"
            rf"  resampled({NUMBER} \({NUMBER}\)){{2}}"
            for form in ("centred", "non-centred")
        ),
        rf"NUTS, non-centred({NUMBER} \({NUMBER}\)){{2}}",
    ),
    "own_program.py": (
        "nats per row",
        *(
            rf"{name}{NUMBER} \({NUMBER}\){NUMBER}{NUMBER} \({NUMBER}\){NUMBER}{NUMBER}"
            for name in ("fit, ELBO", "fit, Pyro's TraceMeanField_ELBO", "SVI")
        ),
        *(f"{name} of a row: observed{NUMBER}, replicated{NUMBER}" for name in ("total ink", "largest cell")),
    ),
    "predictive_checks.py": (
        "tail probabilities",
        *(rf"{statistic} +\w+{NUMBER * 5}" for statistic in ("mean", "variance", "zero fraction")),
        f"correlation of logs{NUMBER * 5}",
        *(f"{statistic} +mean over rows{NUMBER * 4}" for statistic in ("row total", "evenness")),
        rf"Coverage of central intervals \(row\):.* 90%:{NUMBER}% \+-{NUMBER}%",
        "Per cent",
        *(rf"\n{name}{WITH_ERROR * 5}" for name in ("Poisson", "NegativeBinomial", "ZeroInflatedNegativeBinomial")),
    ),
    "priors.py": (
        "nats per row",
        *(
            rf"{prior}{WITH_ERROR} \({NUMBER}\){WITH_ERROR * 2}"
            for prior in ("Normal", "Laplace", "StudentT", "Mixture", "VampPrior", "Flow", "Normal, seed 1")
        ),
    ),
    "semi_supervised.py": (
        "1257 training rows, 100 with a label; 360 test rows",
        *(rf"{name}{WITH_ERROR * 3}" for name in ("a label", r"q\(y \| x\), all rows", r"p\(y \| x\), all rows")),
        "Nats per row",
        *(rf"{name}{NUMBER}" for name in (r"own label", r"next label", r"log p\(x\)")),
        f"360 rows with a label: accuracy{WITH_ERROR}",
    ),
    "sharper_samples.py": (
        "nats per row",
        f"real digits: the floor{NUMBER}",
        *(
            f"{model}{WITH_ERROR}{NUMBER * 2}"
            for model in (
                *("fixed scale, 0.3", "shared scale", "optimal scale", "predicted scale"),
                *("predicted, VampPrior", "predicted, hierarchy"),
            )
        ),
        f"predicted, PixelCNN{WITH_ERROR}{NUMBER}",
    ),
    "sklearn_pipeline.py": (
        *(rf"\n{name}{NUMBER * 2}\n" for name in ("Binomial", "Laplace", "Normal", "PCA")),
        "in nats per row of other folds",
        *(rf"\n +{size} latents{NUMBER}\n" for size in (2, 3)),
        *(rf"\n{name}{NUMBER * 2}\n" for name in ("SimpleImputer", "IterativeImputer", "Imputer")),
        *(
            rf"\n{rows}{NUMBER}% outliers, median of log p\(x\){NUMBER}\n"
            for rows in ("training", "other digits", "mirrored")
        ),
    ),
    "tighter_bounds.py": (
        "nats per row",
        *(f"{bound}{NUMBER * 2}" for bound in ("ELBO", "TVO, left", "CIWAE", "IWAE", "jackknife", "TVO, right")),
        *(
            rf"{name} +log-likelihood{NUMBER} \({NUMBER},{NUMBER}\) +ELBO{NUMBER} \({NUMBER},{NUMBER}\)"
            for name in ("ELBO", "IWAE, K = 5", "IWAE, K = 20", "DReG, K = 20")
        ),
        rf"paired by row:{WITH_ERROR} \(standard error\)",
    ),
    "what_beta_does.py": (
        "nats per row",
        *(
            rf"{beta}({NUMBER} \({NUMBER}\)){{3}} +\d+ of 16{NUMBER} % \({NUMBER}\){NUMBER} \({NUMBER}\)"
            for beta in ("0.20", "1.00", "5.00")
        ),
    ),
}


def test_every_example_is_tested() -> None:
    assert sorted(path.name for path in EXAMPLES.iterdir() if path.name != "__pycache__") == sorted(PROMISES)


@pytest.mark.parametrize("name", PROMISES)
def test_an_example_has_at_most_120_lines_and_a_docstring_of_more_than_ten(name: str) -> None:
    text = (EXAMPLES / name).read_text()
    assert len(text.splitlines()) <= 120
    assert text.startswith('"""') and len(text.split('"""')[1].splitlines()) > 10


@pytest.mark.usefixtures("plain_pyro")  # own_program.py trains by plain SVI, which keeps parameters in Pyro's store
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in PROMISES]
)
def test_an_example_runs_prints_its_tables_and_draws_its_figure(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--smoke", "--out", str(tmp_path / "new" / "figures")])
    try:
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    finally:
        plt.close("all")
    printed = capsys.readouterr().out
    for promise in PROMISES[name]:
        assert re.search(promise, printed), f"{name} must print {promise!r}; got:\n{printed}"
    assert not re.search(r"\b(nan|inf)\b", printed)
    figure = tmp_path / "new" / "figures" / f"{Path(name).stem}.png"
    assert figure.read_bytes().startswith(b"\x89PNG") and figure.stat().st_size > 20_000
