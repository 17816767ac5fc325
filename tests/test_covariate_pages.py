"""Covariates in pictures, report, explorer and card: rows are decoded under their own, and the page says so."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from pages import HOSTILE, Page, evaluate, train_covariates
from test_explorer import post
from torch import Tensor

import pyro_vae as pv
from pyro_vae import plots
from pyro_vae.cli import pictures, runs, table_pictures
from pyro_vae.criticism.latents.conditions import at_random, conditions, repeated
from pyro_vae.web import latent_part
from pyro_vae.web.choices import Choice, choices
from pyro_vae.web.covariates import in_words, lines_of, reached
from pyro_vae.web.explored import Explored
from pyro_vae.web.latents import prior_moments
from pyro_vae.web.views import text_of, view_of

LEVELS = ["A", "B", "C"]


def frame(rows: int = 60) -> pandas.DataFrame:
    """Columns whose means depend on age and site."""
    draws = np.random.RandomState(0)
    age, site = draws.normal(40, 9, rows).round(1), draws.choice(LEVELS, rows)
    seen = pandas.Timestamp("2024-03-01") + pandas.to_timedelta(draws.randint(0, 60, rows), "D")
    weight = draws.normal(70 + age, 3) + 20 * (site == "B")
    return pandas.DataFrame(
        {"age": age, "site": site, "seen": seen, "weight": weight, "visits": draws.poisson(3, rows)}
    )


def of_table() -> tuple[pv.VAE, pv.Table]:
    table = pv.Table(frame(), covariates=["age", "site", "seen"])
    vae = pv.VAE.for_table(table, latent_dim=2, seed=0)
    vae.fit(table, epochs=3, seed=0, progress=False)
    return vae, table


def of_images(into: tuple[str, ...] = ("encoder", "decoder")) -> tuple[pv.VAE, pv.Rows]:
    """Images that are dark where `on` is 1, with four covariates."""
    generator = torch.Generator().manual_seed(0)
    on = torch.arange(40) % 2
    x = torch.rand(40, 1, 4, 4, generator=generator) + 3 * on.reshape(-1, 1, 1, 1)
    fields = {"on": on, "dose": torch.arange(40.0), "site": torch.arange(40) % 3, "mask": torch.ones(40, 1, 4, 4)}
    kinds = {"on": "binary", "dose": "real", "site": LEVELS, "mask": pv.covariates.Binary((1, 4, 4))}
    covariates = pv.Covariates(kinds, into=into)
    vae = pv.VAE(likelihood=pv.likelihoods.Normal((1, 4, 4)), prior=pv.priors.Normal(2), covariates=covariates, seed=0)
    rows = pv.Rows(x, fields)
    vae.fit(rows, epochs=3, seed=0, progress=False)
    return vae, rows


def splits_of(rows: pv.Rows, table: pv.Table | None = None) -> pv.datasets.Splits:
    return pv.datasets.Splits("rows", rows, rows, rows, rows.event_shape, "Normal", {}, "", {}, table)


@pytest.mark.parametrize("make", [of_table, of_images])
def test_a_traversal_decodes_under_the_fields_of_its_row(make: Any) -> None:
    vae, rows = make()
    row = rows.subset([3])
    found = pv.latents.traverse(vae, row, steps=3, dims=[1])
    codes = vae.encode(row).mean.expand(3, 2).clone()
    codes[:, 1] = torch.tensor([-3.0, 0.0, 3.0])
    own = {name: value.expand(3, *value.shape[1:]) for name, value in row.fields.items()}
    torch.testing.assert_close(found[:, 0], vae.decode(codes, **own).mean)


def test_a_traversal_takes_fields_by_keyword() -> None:
    vae, rows = of_images()
    row = rows.subset([3])
    torch.testing.assert_close(pv.latents.traverse(vae, row.x, **row.fields), pv.latents.traverse(vae, row))
    with pytest.raises(ValueError, match="field 'on' must be given, since the model requires it"):
        pv.latents.traverse(vae, row.x)


def test_rows_chosen_at_random_have_the_fields_of_the_data_together() -> None:
    vae, rows = of_images()
    found = at_random(vae, rows, 4000, seed=1)
    assert torch.equal(found["on"], found["dose"].long() % 2) and torch.equal(found["site"], found["dose"].long() % 3)
    counts = found["dose"].long().bincount(minlength=40)
    assert (counts - 100).abs().max() < 5 * math.sqrt(100 * 39 / 40)
    again, other = at_random(vae, rows, 4000, seed=1), at_random(vae, rows, 4000, seed=2)
    assert torch.equal(found["dose"], again["dose"]) and not torch.equal(found["dose"], other["dose"])
    plain = pv.VAE(likelihood=pv.likelihoods.Normal((1, 4, 4)), prior=pv.priors.Normal(2), seed=0)
    assert at_random(plain, rows, 5, seed=0) == conditions(plain, rows) == {}


def test_the_map_shows_reconstructions_under_the_covariates_of_each_row() -> None:
    vae, rows = of_images()
    part = latent_part.latent_part(vae, rows)
    assert part.rows and part.traversal and not part.refused
    view = view_of(vae, rows)
    assert [shown[1] for shown in part.rows["shown"]] == view.show(vae.reconstruct(rows, seed=0))
    assert part.rows["given"][4] == "on 0, dose 4, site B, 1 more"
    assert "under its covariates (on 0, dose 0, site A, 1 more)" in part.moved
    middle = vae.encode(rows.subset([0])).mean.clone()
    middle[0, part.traversal["dims"][0]] = 0.0
    own = conditions(vae, rows.subset([0]))
    assert part.traversal["shown"][0][12] == view.show_means(vae.decode(middle, **own))[0]


@pytest.mark.parametrize("prior", [pv.priors.Normal(2), pv.priors.Laplace(2)], ids=["normal", "by draws"])
def test_the_moments_of_a_prior_are_those_given_the_covariates(prior: pv.priors.Prior) -> None:
    vae, table = of_prior(prior)
    fields = conditions(vae, table)
    p = vae.prior_of(fields)
    latents = vae.simulate(40_000, seed=1, **{name: value[torch.arange(40_000) % 60] for name, value in fields.items()})
    error = 5 * latents["z"].double().std(0) / math.sqrt(1000)
    mean, scale = prior_moments(vae, fields)
    assert ((mean - latents["z"].double().mean(0)).abs() < error).all()
    assert ((scale - latents["z"].double().std(0)).abs() < error).all()
    one = repeated(conditions(vae, table.subset([7])), 1)
    if isinstance(prior, pv.priors.Normal):
        for found, exact in zip(prior_moments(vae, one), (p.mean[7], p.stddev[7]), strict=True):
            torch.testing.assert_close(found, exact.double())


def of_prior(prior: pv.priors.Prior) -> tuple[pv.VAE, pv.Table]:
    table = pv.Table(frame(), covariates=["age", "site", "seen"])
    covariates = table.covariates(("decoder", "prior"))
    vae = pv.VAE.for_table(table, prior=prior, covariates=covariates, seed=0)
    vae.fit(table, epochs=3, learning_rate=0.05, seed=0, progress=False)
    return vae, table


def test_covariates_in_words_are_the_cells_of_the_data() -> None:
    vae, table = of_table()
    data = frame()
    dates = data["seen"].dt.strftime("%Y-%m-%d")
    expected = [
        f"age {text_of(a)}, site {s}, seen {d}" for a, s, d in zip(data["age"], data["site"], dates, strict=True)
    ]
    assert in_words(vae, table) == expected
    assert reached(vae) == "the encoder and the decoder"
    assert reached(of_images(("encoder", "decoder", "prior"))[0]) == "the encoder, the decoder and the prior"
    kinds = {"on": ("binary", ""), "dose": ("real", ""), "site": ("levels", "levels A, B, C (3)")}
    kinds["mask"] = ("binary", "an array 1 x 4 x 4 in each row")
    assert {name: (kind, more) for name, kind, more in lines_of(of_images()[0])} == kinds
    assert [line[:2] for line in lines_of(vae)] == [("age", "real"), ("site", "categorical"), ("seen", "time")]


NUMBER = Choice("age", "", (), (20.0, 60.0))
SITE = Choice("site", "", ("A", "B"), (0.0, 1.0))
BEYOND = "age lies beyond the training rows, 20 to 60: the model extrapolates."
REFUSED = "age must be a number from -20 to 100: the row's own is used."


@pytest.mark.parametrize(
    ("choice", "given", "number", "said"),
    [
        (NUMBER, 41.5, 41.5, ""),
        (NUMBER, "41.5", 41.5, ""),
        (NUMBER, 60, 60.0, ""),
        (NUMBER, 61, 61.0, BEYOND),
        (NUMBER, -20.0, -20.0, BEYOND),
        (NUMBER, 100.5, None, REFUSED),
        (NUMBER, None, None, REFUSED),
        (NUMBER, "x", None, REFUSED),
        (NUMBER, math.nan, None, REFUSED),
        (NUMBER, True, None, REFUSED),
        (SITE, 1, 1.0, ""),
        (SITE, 2, None, ""),
        (SITE, -1, None, ""),
        (SITE, "B", None, ""),
        (SITE, None, None, ""),
        (SITE, [1], None, ""),
    ],
)
def test_only_values_that_a_covariate_can_have_reach_the_model(
    choice: Choice, given: Any, number: float | None, said: str
) -> None:
    assert choice.read(given) == number and choice.said(given) == said


def test_what_can_be_chosen_has_the_levels_and_the_range_of_the_training_rows() -> None:
    vae, table = of_table()
    age, site, seen = choices(vae, table)
    data = frame()
    assert age.values == (data["age"].min(), data["age"].max()) and age.levels == ()
    assert site.levels == tuple(LEVELS)
    assert seen.unit == f"days since {data['seen'].min():%Y-%m-%d}" and seen.values[0] == 0
    assert [one.start(table.field(one.name)[0]) for one in (age, site)] == [
        data["age"][0],
        LEVELS.index(data["site"][0]),
    ]
    images, rows = of_images()
    assert [one.name for one in choices(images, rows)] == ["on", "dose", "site"]  # an array stays the row's own
    assert choices(*of_images(("encoder", "prior"))) == [], "p(x | z) does not depend on them"


@pytest.mark.parametrize("make", [of_table, of_images])
def test_the_explorer_decodes_under_the_covariates_that_are_chosen(make: Any) -> None:
    vae, rows = make()
    run = Explored("given", vae, splits_of(rows))
    place = next(i for i, one in enumerate(run.choices) if one.name == "site")
    start = run.covariates_at(5)
    own = conditions(vae, rows.subset([5]))
    same = run.under(5, start)
    assert all(torch.allclose(same[name], own[name], rtol=1e-6) for name in own) and same.keys() == own.keys()
    assert run.posterior(5).again == run.view.show_means(vae.decode(run.means[5:6], **own))[0]
    means: list[Tensor] = []
    for level in range(3):
        asked = [level if i == place else value for i, value in enumerate(start)]
        expected = own | {"site": torch.full_like(own["site"], level)}
        z = run.means[5:6]
        assert run.decode(z, 0, run.under(5, asked))[0] == run.view.show_means(vae.decode(z, **expected))[0]
        means.append(vae.decode(z, **expected).mean)
    assert not torch.equal(means[0], means[1])
    assert torch.equal(run.under(5, [None] * len(start))["site"], own["site"])


def test_the_page_of_the_explorer_follows_the_covariates() -> None:
    pytest.importorskip("dash", reason="dash is absent: pip install 'pyro-vae[explore]'")
    from pyro_vae.web.explorer import explorer

    vae, table = of_table()
    run = Explored("given", vae, splits_of(table))
    app = explorer([run])
    client = app.server.test_client()
    values: dict[str, Any] = {f"slider-0-{k}": value for k, value in enumerate(run.at_row(2))}
    values |= {f"covariate-0-{k}": value for k, value in enumerate(run.covariates_at(2))} | {"row": 2}
    first = post(client, app, "shown-0.children", values, "row.value")
    assert first["given-0"]["children"] == f"Test row 2: {in_words(vae, table)[2]}."
    assert first["asked-0"]["children"] == ""
    far = post(client, app, "shown-0.children", values | {"covariate-0-0": 80}, "covariate-0-0.value")
    assert "extrapolates" in far["asked-0"]["children"] and far["shown-0"] != first["shown-0"]
    back = post(client, app, "slider-0-0.value", {"row": 4, "back-0": 1}, "back-0.n_clicks")
    assert [back[f"covariate-0-{k}"]["value"] for k in range(3)] == run.covariates_at(4)
    assert [back[f"slider-0-{k}"]["value"] for k in range(2)] == run.at_row(4)


def test_where_the_decoder_takes_none_there_is_nothing_to_choose() -> None:
    vae, rows = of_images(("encoder",))
    run = Explored("given", vae, splits_of(rows))
    assert run.choices == [] and run.covariates_at(0) == []
    assert run.about.endswith("; covariates reach the encoder")
    assert set(run.under(3)) == {"on", "dose", "site", "mask"}


def test_pictures_of_a_table_draw_under_the_covariates_of_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae, table = of_table()
    seen: list[Any] = []
    kept = plots.marginals
    monkeypatch.setattr(
        plots, "marginals", lambda samples, **more: seen.append((samples, more)) or kept(samples, **more)
    )
    files = table_pictures.of_run(tmp_path, vae, table, seed=3)
    assert [file.name for file in files] == ["marginals.png", "pairs.png"] and all(map(Path.exists, files))
    samples, more = seen[0]
    assert more["title"].endswith("2,000 draws from the model, under the covariates of rows chosen at random")
    drawn = vae.sample(2000, seed=3, fields=at_random(vae, table, 2000, 3))
    assert np.array_equal(samples["model"]["weight"], table.schema.decode(drawn)["weight"])


def test_pictures_of_images_say_under_which_covariates_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae, rows = of_images()
    titles: dict[str, str] = {}
    kept = pictures._write
    monkeypatch.setattr(
        pictures,
        "_write",
        lambda file, plot, title, **more: titles.update({file.name: title}) or kept(file, plot, title, **more),
    )
    pictures.of_run(tmp_path, vae, splits_of(rows), vae.history, seed=0)
    for name, end in {
        "prior_means.png": "draws from the prior, under the covariates of test rows chosen at random",
        "prior_draws.png": "prior predictive, under the covariates of test rows chosen at random",
        "interpolation.png": "in latent space, under the covariates of the first one",
    }.items():
        assert titles[name].endswith(end) and (tmp_path / name).exists()
    _, title = pictures._traversal(vae, rows, SimpleNamespace(use=None))  # type: ignore[arg-type]
    assert title.endswith("as in the first test row, under the covariates of that row")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Page, str]:
    """A run on a table with covariates, its report, and what the terminal said."""
    pytest.importorskip("plotly", reason="plotly is absent: pip install 'pyro-vae[report]'")
    run = train_covariates(tmp_path_factory.mktemp("given"))
    printed, _ = evaluate(run)
    return run, Page((run / "report.html").read_text()), printed


@pytest.mark.slow
def test_the_report_names_the_covariates_apart_from_the_columns(trained: tuple[Path, Page, str]) -> None:
    run, page, printed = trained
    about = f"All numbers are given covariates, as in log p(x | covariates): {', '.join((*HOSTILE[:2], 'seen'))}."
    assert about in printed and " ".join(about.split()) in page.text
    assert (3, "Covariates") in page.headings
    assert "they reach the encoder, the decoder and the prior" in page.text
    assert f"columns {HOSTILE[2]} (count), score (real)" in page.text
    assert (
        "draws from the model (line or second bars), under the covariates of rows of the data chosen at random"
        in page.text
    )
    data = json.loads(page.data)
    assert data["map"]["columns"] == [HOSTILE[2], "score"]
    vae, splits = runs.read_model(run), runs.read_splits(run, None)
    assert data["map"]["given"] == in_words(vae, splits.test)
    assert "<b>low</b>" not in page.html and "<script>alert" not in page.html
    drawn = vae.sample(2000, seed=0, fields=at_random(vae, splits.table, 2000, 0))  # type: ignore[arg-type]
    mean = float(drawn[:, 1].double().mean())
    assert f"and {mean:.4g} in draws from the model" in page.text


@pytest.mark.slow
def test_the_card_names_the_covariates_apart_from_the_columns(trained: tuple[Path, Page, str]) -> None:
    card = (trained[0] / "model_card.md").read_text()
    parts = dict(zip(*[iter(re.split(r"^## (.*)$", card, flags=re.MULTILINE)[1:])] * 2, strict=True))
    assert "| they reach | the encoder, the decoder and the prior |" in parts["Covariates"]
    assert "| seen | time, 2024-01-01 to " in parts["Covariates"] and "seen" not in parts["Columns"]
    assert "All numbers are given covariates" in parts["Numbers"]
    assert "log p(x given the covariates) is a lower bound" in parts["Use"]
