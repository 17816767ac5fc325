"""What consoles and notebooks show of our objects: short lines, and tables that escape what users named."""

from __future__ import annotations

import math
import sys
import types

import pandas
import pytest
import torch
from cases import GUIDES, LIKELIHOODS, PRIORS, small_vae
from exact import LinearGaussian

import pyro_vae as pv
from pyro_vae.runtime.display import Shown, summary
from pyro_vae.runtime.isolation import isolated

HOSTILE = "<script>alert(1)</script>"


def results() -> dict[str, object]:
    """One object of each kind, of a model of a table whose column has a hostile name."""
    frame = pandas.DataFrame({"age": [31.5, 40.0, None, 58.5] * 6, HOSTILE: ["no", "yes", "no", "yes"] * 6})
    vae = pv.VAE.for_table(frame, latent_dim=2, decoder=pv.nets.MLP((8,)), seed=0)
    history = vae.fit(frame, epochs=25, seed=0, progress=False)
    imputations = vae.impute(frame, num_imputations=3, seed=0)
    with isolated():
        weights = pv.log_weights(vae.model, vae.guide, torch.tensor([[30.0, 1.0]]), num_particles=2)
    return {
        "model": vae,
        "history": history,
        "table": pv.Table(frame),
        "bound": vae.elbo(frame, seed=0),
        "log-likelihood": vae.log_likelihood(frame, num_particles=50, seed=0),
        "mean": vae.elbo(frame, seed=0).mean(),
        "imputations": imputations,
        "pooled": pv.pool([1.0, 1.5, 1.25], [0.25, 0.25, 0.5]),
        "checks": pv.check(vae, frame, seed=0),
        "diagnosis": pv.diagnose(vae, frame, seed=0),
        "comparison": pv.compare({HOSTILE: vae, "same": vae}, frame, num_particles=50, seed=0),
        "convergence": history.convergence(),
        "log-weights": weights,
    }


@pytest.mark.filterwarnings("ignore::pyro_vae.evaluation.UnreliableWarning")
def test_every_result_is_one_short_line_and_a_table_that_runs_no_code() -> None:
    for name, shown in results().items():
        line, page = repr(shown), shown._repr_html_()  # type: ignore[attr-defined]
        assert len(line) < 2000 and "\n" not in line, name
        assert "tensor(" not in line and not line.startswith("<statistic"), name
        assert "<table>" in page and "<script" not in page, name


def test_every_part_and_model_of_the_tables_of_cases_has_a_short_repr() -> None:
    for table in (PRIORS, GUIDES, LIKELIHOODS):
        for name, make in table.items():
            assert len(repr(make())) < 2000, name
    vae = small_vae()
    assert repr(vae).startswith("VAE(likelihood=") and repr(vae).endswith(" parameters")
    count = sum(p.numel() for p in vae.parameters())
    assert f"{count:,} parameters" in repr(vae) and f"{count:,} parameters" in vae._repr_html_()
    own = LinearGaussian()
    assert repr(own) == f"LinearGaussian() with {sum(p.numel() for p in own.parameters())} parameters"


def test_large_data_and_nets_have_a_short_repr() -> None:
    splits = pv.datasets.load("digits")
    assert repr(splits) == "<Splits: digits: 1,257 training, 180 validation and 360 test rows of shape (1, 8, 8)>"
    assert repr(splits.train) == "<Rows: 1,257 rows of shape (1, 8, 8), fields label>"
    deep = pv.nets.build(pv.nets.MLP((4,) * 60), (3,), (2,), "encoder")
    assert len(repr(deep)) < 2000 and f"{sum(p.numel() for p in deep.parameters()):,} parameters" in repr(deep)
    vae = small_vae(encoder=pv.nets.MLP(tuple(range(8, 700))))
    assert "..." in repr(vae) and len(repr(vae)) < 2000


def test_the_progress_bar_shows_in_a_notebook(monkeypatch, capsys) -> None:
    from pyro_vae.training.progress import ProgressBar

    for notebook in (False, True):
        monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel")) if notebook else None
        ProgressBar(3).close()
        assert ("0/3" in capsys.readouterr().err) == notebook


def test_a_long_history_shows_its_ends() -> None:
    history = pv.History()
    for epoch in range(1, 101):
        history.append(epoch=epoch, train_bound=-100.0 / epoch)
    page = history._repr_html_()
    assert page.count("<tr>") == 1 + 10 + 1 + 10 and "<td>100</td>" in page and "valid_bound" not in page


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.tensor([1.0, math.nan, 2.5]), "(3,) float32, 1 to 2.5, 1 NaN"),
        (torch.tensor([math.nan, math.nan]), "(2,) float32"),
        (torch.tensor([True, False]), "(2,) bool"),
        (torch.zeros(2, 0), "(2, 0) float32"),
        (torch.tensor(3), "3"),
        ([1, 2], "2 entries"),
        ("a\n" * 400, "a " * 148 + "a..."),
    ],
)
def test_values_are_told_in_a_few_words(value: object, words: str) -> None:
    assert summary(value) == words


def test_no_result_shows_its_tensors() -> None:
    def all_of(kind: type) -> list[type]:
        return [kind, *(deeper for one in kind.__subclasses__() for deeper in all_of(one))]

    assert len(all_of(Shown)) > 20
    for kind in all_of(Shown):
        assert kind.__repr__ is Shown.__repr__ or ("__repr__" in vars(kind) and kind is pv.Imputations), kind
