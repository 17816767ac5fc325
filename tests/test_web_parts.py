"""What pages are made of: pictures and cells of rows, the plane of the latents, traversals, numbers in words."""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np
import pytest
import torch
from pages import pixels

import pyro_vae as pv
from pyro_vae.web import latent_part, numbers, report, views
from pyro_vae.web.latents import check_real_latents, plane_of, posterior, prior_moments, traverse


def test_vectors_are_bars_and_lines() -> None:
    for size, mark in ((5, "<rect"), (80, "<polyline")):
        vae = pv.VAE(likelihood=pv.likelihoods.Normal(size), prior=pv.priors.Normal(2), seed=0)
        x = torch.randn(20, size)
        view = views.view_of(vae, pv.Rows(x))
        first, second = view.show(x[:2])
        head, _, content = str(first).partition(",")
        assert head == "data:image/svg+xml;base64" and first != second
        assert mark in base64.b64decode(content).decode()
        x[0] = math.nan
        assert len(view.show(x[:1])) == 1


def test_colours_stay_and_images_of_any_range_are_scaled() -> None:
    vae = pv.VAE(likelihood=pv.likelihoods.Normal((3, 4, 5)), prior=pv.priors.Normal(2), seed=0)
    x = torch.rand(6, 3, 4, 5) * 200 - 100
    x[0, :, 0, 0] = torch.tensor([100.0, -100.0, 0.0])
    picture = pixels(str(views.view_of(vae, pv.Rows(x)).show(x[:1])[0]))
    assert picture.shape == (4, 5, 3)
    assert np.abs(picture[0, 0] - [1, 0, 0.5]).max() < 0.02


def test_what_has_no_mean_is_the_mean_of_draws() -> None:
    from torch.distributions import Normal, TransformedDistribution
    from torch.distributions.transforms import SigmoidTransform

    found = views.mean_of(TransformedDistribution(Normal(torch.zeros(3), 1.0), [SigmoidTransform()]))
    assert torch.allclose(found, torch.full((3,), 0.5).double(), atol=4 * 0.21 / math.sqrt(views.DRAWS))


def test_a_plane_projects_latents_as_it_places_the_rows() -> None:
    for size in (1, 2, 5):
        z = torch.randn(30, size)
        plane = plane_of(z)
        assert plane.points.shape == (30, 2)
        assert torch.allclose(plane.project(z), plane.points, atol=1e-5)
        assert ("principal" in plane.about) == (size > 2)
    assert plane_of(torch.randn(2, 4)).points.shape == (2, 2)
    collapsed = plane_of(torch.zeros(10, 3))
    assert collapsed.project(torch.ones(4, 3)).isfinite().all()


def test_latents_that_are_no_real_vector_are_refused_with_the_reason() -> None:
    likelihood = pv.likelihoods.Bernoulli(3)
    vae = pv.VAE(likelihood=likelihood, prior=pv.priors.Bernoulli(2), guide=pv.guides.Bernoulli(), seed=0)
    with pytest.raises(NotImplementedError, match="must be of a model whose latents are real numbers; got latents in"):
        check_real_latents(vae, "The map")
    part = latent_part.latent_part(vae, pv.Rows(torch.ones(4, 3)))
    assert part.figure is None and part.refused.startswith("The map and the traversal of the latents must be of")
    offsets = pv.VAE(likelihood=pv.likelihoods.Poisson(3), prior=pv.priors.Normal(2), seed=0)
    check_real_latents(offsets, "The map")
    rows = pv.Rows(torch.arange(27.0).reshape(9, 3), {"offset": torch.zeros(9)})
    offsets.fit(rows, epochs=1, seed=0, progress=False)
    with pytest.raises(NotImplementedError, match="must be of a model that reads no field of a row but covariates"):
        check_real_latents(offsets, "The map")


def test_the_moments_of_the_prior_are_its_own() -> None:
    likelihood = pv.likelihoods.Bernoulli(3)
    vae = pv.VAE(likelihood=likelihood, prior=pv.priors.Normal(4), seed=0)
    assert [part.tolist() for part in prior_moments(vae)] == [[0.0] * 4, [1.0] * 4]
    vae = pv.VAE(likelihood=likelihood, prior=pv.priors.Laplace(2), seed=0)
    mean, scale = prior_moments(vae)
    assert mean.abs().max() < 0.3 and (scale - math.sqrt(2)).abs().max() < 0.4


def test_pictures_are_left_out_and_places_are_fewer_where_they_would_take_too_much_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vae = pv.VAE(likelihood=pv.likelihoods.Normal((1, 32, 32)), prior=pv.priors.Normal(3), seed=0)
    rows = pv.Rows(torch.randn(40, 1, 32, 32))
    whole = latent_part.latent_part(vae, rows)
    monkeypatch.setattr(latent_part, "MAP_SIZE", 20_000)
    monkeypatch.setattr(latent_part, "TRAVERSAL_SIZE", 20_000)
    small = latent_part.latent_part(vae, rows)
    assert whole.rows and small.rows and small.traversal and whole.traversal and small.figure
    kept = len(small.rows["shown"])
    assert len(whole.rows["shown"]) == 40 and 0 < kept < 20 and len(small.rows["x"]) == 40
    assert f"only the first {kept} rows have theirs" in small.figure.caption
    assert len(whole.traversal["steps"]) == 25 and len(small.traversal["steps"]) < 25
    assert 0.0 in small.traversal["steps"]
    view = views.view_of(vae, rows)
    means, _ = posterior(vae, rows, 1)
    fewest = traverse(vae, view, means[0], means.var(0), budget=1)
    assert len(fewest.dims) == 2 and len(fewest.steps) == 7


def test_unknown_infinite_and_not_computed_are_three_things() -> None:
    mean: dict[str, Any] = {"estimate": 1.0, "monte_carlo_error": None, "sampling_error": "Infinity"}
    text = numbers.sentence("test ELBO", mean, 5)
    assert "other random draws would change it is unknown" in text and "other rows would change it is infinite" in text
    assert numbers.sentence("test ELBO", None, None) == "Test ELBO: not computed."
    text = numbers.sentence("test KL", {"estimate": "-Infinity", "monte_carlo_error": 0.0}, 1)
    assert "minus infinity nats per row, of one row. Its Monte Carlo error is zero" in text
    assert "is not computed" in text
    bound = {"estimate": -2.0, "monte_carlo_error": None, "sampling_error": 0.1}
    bound |= {"kind": "lower bound", "error_holds": False}
    text = numbers.sentence("x", bound, 3)
    assert ">= -2.000" in text and "No Monte Carlo error is given, since it would be too small." in text


def test_figures_that_hold_what_is_not_finite_are_json_too() -> None:
    assert report._as_json({"a": [1.5, None]}) == '{"a":[1.5,null]}'
    with pytest.raises(ValueError):
        report._as_json({"a": math.nan})
    from pyro_vae.web.figures import numbers as finite

    assert finite(torch.tensor([1.0, math.nan, -math.inf])) == [1.0, None, None]
