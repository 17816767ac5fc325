"""The report for a browser: it says what the terminal says, in one file that loads nothing, whatever the data hold."""

from __future__ import annotations

import configparser
import itertools
import json
import math
import re
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from pages import HOSTILE, Page, evaluate, pixels, train_digits, train_table

from pyro_vae.cli import pages, runs
from pyro_vae.criticism.diagnosis import Diagnosis
from pyro_vae.web import report, views
from pyro_vae.web.trained import what_was_trained

pytest.importorskip("plotly", reason="plotly is absent: pip install 'pyro-vae[report]'")
pytest.importorskip("jinja2", reason="jinja2 is absent: pip install 'pyro-vae[report]'")

LARGEST = 8_000_000  # bytes; plotly.js alone is 4.8 million


class Reported(NamedTuple):
    """A run, its report, what the terminal said, and the diagnosis."""

    run: Path
    page: Page
    printed: str
    found: Diagnosis


@pytest.fixture(scope="module")
def runs_with_reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reported]:
    """Runs on digits and on a table."""
    found = {}
    for name, train in (("digits", train_digits), ("table", train_table)):
        run = train(tmp_path_factory.mktemp(name))
        printed, diagnosis = evaluate(run)
        found[name] = Reported(run, Page((run / "report.html").read_text()), printed, diagnosis)
    return found


@pytest.fixture(params=["digits", "table"])
def reported(request: pytest.FixtureRequest, runs_with_reports: dict[str, Reported]) -> Reported:
    return runs_with_reports[request.param]


@pytest.fixture
def digits(runs_with_reports: dict[str, Reported]) -> Reported:
    return runs_with_reports["digits"]


@pytest.fixture
def table(runs_with_reports: dict[str, Reported]) -> Reported:
    return runs_with_reports["table"]


def test_the_report_says_what_the_terminal_says(reported: Reported) -> None:
    page = reported.page
    printed = reported.printed
    assert "report.html" in printed.splitlines()[-1]
    lines = printed.splitlines()
    for line in lines[next(i for i, text in enumerate(lines) if text.startswith("nats per row")) : -1]:
        marks = re.sub(r"^\s*(! |- |  )", "", line)  # of a finding in the terminal
        cells = [cell for cell in re.split(r"\s{2,}", marks.strip()) if cell]
        for cell in cells:  # one, but in lines of tables
            assert cell in page.text, line


def test_findings_come_first_and_those_that_ask_for_action_before_the_others(reported: Reported) -> None:
    run = reported.run
    page = reported.page
    found = json.loads((run / "report.json").read_text())["findings"]
    places = [page.text.index(f"{one['about']}: {one['found']}") for one in found]
    acting = [place for place, one in zip(places, found, strict=True) if one["advice"]]
    rest = [place for place, one in zip(places, found, strict=True) if not one["advice"]]
    assert max(acting, default=0) < min(rest, default=math.inf)
    for one in found:
        assert f"{one['about']}: {one['found']} {one['advice']}".strip() in page.text
    assert [name for level, name in page.headings if level == 2][:3] == ["Findings", "Numbers", "What was trained"]
    count = f"{len(acting)} of {len(found)} findings ask for action"
    assert page.text.index(count) < min(places)


def test_numbers_have_both_errors_in_words_and_a_lower_bound_is_one(reported: Reported) -> None:
    run = reported.run
    page = reported.page
    test = json.loads((run / "evaluation.json").read_text())["test"]
    assert test["log_likelihood"]["kind"] == "lower bound"
    assert f"Test log-likelihood: >= {test['log_likelihood']['estimate']:.3f} nats per row" in page.text
    elbo = test["elbo"]
    assert (
        f"Test ELBO: {elbo['estimate']:.3f} nats per row, the mean over {test['rows']} rows. Other random draws would"
        f" change it by about {elbo['monte_carlo_error']:.3f} (Monte Carlo error). Other rows would change it by about"
        f" {elbo['sampling_error']:.3f} (sampling error)."
    ) in page.text
    summary = json.loads((run / "summary.json").read_text())
    assert f"Training ELBO: {summary['train']['elbo']['estimate']:.3f}" in page.text


def test_the_report_says_what_was_trained(reported: Reported) -> None:
    run = reported.run
    page = reported.page
    config = json.loads((run / "config.json").read_text())
    splits = runs.read_splits(run, None)
    rows = f"{len(splits.train):,} training, {len(splits.valid)} validation, {len(splits.test)} test"
    for text in (rows, "latent_dim=", "estimator iwae", "seed 0", "batch size 128", config["versions"]["torch"]):
        assert text in page.text, text
    assert str(run.parent) not in page.html, "the folder of the run is nobody else's business"
    assert page.headings[0] == (1, f"Report on {run.name}")


def test_the_file_is_self_contained_and_small(reported: Reported) -> None:
    run = reported.run
    page = reported.page
    assert (run / "report.html").stat().st_size < LARGEST
    for tag, attributes in page.elements:
        for name in ("src", "href", "action", "srcset", "data", "poster", "formaction"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes)
    styles = "".join(re.findall(r"<style>(.*?)</style>", page.html, flags=re.DOTALL))
    assert (
        "url(" not in styles and "@import" not in styles and "@media print" in styles and "max-width: 44rem" in styles
    )
    policies = [a["content"] or "" for t, a in page.elements if t == "meta" and "http-equiv" in a]
    assert len(policies) == 1 and policies[0].startswith("default-src 'none';") and "form-action 'none'" in policies[0]
    assert page.html.count("plotly.js v") == 1


def test_the_page_has_a_language_a_title_headings_in_order_and_texts_for_figures(
    reported: Reported,
) -> None:
    page = reported.page
    assert ("html", {"lang": "en"}) in page.elements and page.html.partition("</head>")[0].count("<title>") == 1
    levels = [level for level, _ in page.headings]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in itertools.pairwise(levels))
    plots = [attributes for _, attributes in page.elements if attributes.get("class") == "plot"]
    assert len(plots) >= 8 and all(len(plot["aria-label"] or "") > 20 for plot in plots)
    fields = {a["id"] for tag, a in page.elements if tag in ("input", "select")}
    assert fields == {"row", "latent", "place"} == {a["for"] for tag, a in page.elements if tag == "label"}
    identifiers = [a["id"] for _, a in page.elements if "id" in a]
    assert len(identifiers) == len(set(identifiers))


def test_every_figure_is_one_that_plotly_accepts(reported: Reported) -> None:
    import plotly.graph_objects as go

    page = reported.page
    figures = json.loads(page.data)["figures"]
    assert {"training", "map", "khat", "coverage", "pit", "guide-coverage", "ranks", "statistic-0"} <= set(figures)
    for name, figure in figures.items():
        go.Figure(figure)  # raises where a property is unknown, or a value is out of its range
        assert figure["data"], name


def test_rows_and_traversal_of_digits_are_pictures(digits: Reported) -> None:
    run = digits.run
    page = digits.page
    data = json.loads(page.data)
    rows, path = data["map"], data["traversal"]
    assert len(rows["x"]) == len(rows["shown"]) == 15 and rows["kind"] == path["kind"] == "picture"
    splits, vae = runs.read_splits(run, None), runs.read_model(run)
    assert rows["labels"] == [str(label) for label in splits.test.fields["label"].tolist()]
    first = pixels(rows["shown"][0][0])
    assert first.shape == (8, 8)
    x = splits.test.take(slice(0, 1), like=vae.like)["x"][0, 0].numpy()
    assert np.abs((1 - first) * 16 - x).max() < 0.05  # dark where x is large
    mean = vae.reconstruct(splits.test.subset(slice(0, 1)))[0, 0].numpy()
    assert np.abs((1 - pixels(rows["shown"][0][1])) * 16 - mean).max() < 0.05
    assert len(path["dims"]) == 3 and len(path["steps"]) == 25
    assert len({tuple(line) for line in path["shown"]}) == 3 and len(set(path["shown"][0])) > 10
    z = vae.encode(splits.test.subset(slice(0, 1))).mean.clone()
    z[0, path["dims"][1]] = path["values"][1][24]
    assert path["values"][1][24] == 3.0 and path["steps"][24] == 3.0  # of a standard normal prior
    expected = vae.decode(z).mean[0, 0].numpy()
    assert np.abs((1 - pixels(path["shown"][1][24])) * 16 - expected).max() < 0.05


def test_hostile_names_are_text_and_no_html(table: Reported) -> None:
    page = table.page
    for name in HOSTILE:
        assert name in page.text
    own = page.html.partition('id="page-data">')
    data, _, _ = own[2].partition("</script>")
    assert "<" not in data and "&" not in data.replace("\\u0026", "")
    assert "<script>alert" not in page.html and "<img src=x" not in page.html and "<b>low</b>" not in page.html
    assert not [a for _, a in page.elements if any(name.startswith("on") for name in a)]
    read = json.loads(data)
    assert read["map"]["columns"][:2] == list(HOSTILE[:2])  # as they are: the script sets them as text
    titles = [one["layout"]["xaxis"]["title"]["text"] for one in read["figures"].values()]
    assert not [title for title in titles if "<" in title], "plotly.js reads a part of HTML"
    assert any("&lt;script&gt;" in title for title in titles)


def test_cells_of_a_table_are_shown_with_their_bars(table: Reported) -> None:
    vae, splits = runs.read_model(table.run), runs.read_splits(table.run, None)
    rows = splits.train.subset(slice(0, 30))
    view = views.view_of(vae, rows)
    x = rows.take(slice(None))["x"]
    shown = view.show(x)
    place = int(x[:, 0].nan_to_num(-1e9).argmax())
    assert shown[place][0][1] == 1.0 and float(shown[place][0][0]) == pytest.approx(float(x[place, 0]), rel=1e-3)
    missing = x[:, 0].isnan().nonzero().flatten()
    assert all(shown[int(row)][0] == ["missing", None] for row in missing)
    assert {line[1][0] for line in shown} <= {"<b>low</b>", "</script>", "'\"&"} and shown[0][1][1] is None
    assert re.fullmatch(r"2024-\d\d-\d\d", shown[0][3][0])
    z = vae.encode(rows).mean
    means = view.show_means(vae.decode(z))
    assert all(0 <= cell[1] <= 1 for line in means for cell in line)
    level, probability = means[0][1][0].rsplit(" ", 1)
    assert level in ("<b>low</b>", "</script>", "'\"&") and probability == f"({means[0][1][1]:.0%})"
    assert float(means[0][0][0]) == pytest.approx(float(vae.decode(z).blocks[0].mean[0, 0]), rel=1e-3)


def page_of(run: Path, found: Diagnosis) -> tuple[list[Path], str]:
    """The report of a run that was diagnosed before."""
    vae, splits = runs.read_model(run), runs.read_splits(run, None)
    return pages.report(run, vae, splits, json.loads((run / "evaluation.json").read_text()), found)


@pytest.mark.parametrize("library", ["plotly.offline", "jinja2"])
def test_without_a_library_there_is_no_page_but_a_line_on_what_to_install(
    library: str, table: Reported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(table.run, tmp_path / "run", ignore=shutil.ignore_patterns("report.html")))
    monkeypatch.setitem(sys.modules, library, None)
    written, said = page_of(run, table.found)
    assert written == [] and not (run / "report.html").exists()
    assert said.startswith("report.html must be made with plotly and jinja2; got") and "pyro-vae[report]" in said


def test_without_the_libraries_the_other_files_are_written(
    table: Reported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(table.run, tmp_path / "run", ignore=shutil.ignore_patterns("report.*")))
    monkeypatch.setitem(sys.modules, "jinja2", None)
    *_, written, said = evaluate(run)[0].splitlines()
    assert "report.txt" in written and "report.json" in written and "khat.png" in written
    assert "report.html" not in written and "pip install 'pyro-vae[report]'" in said


def test_a_run_without_a_summary_or_a_history_has_a_report_too(table: Reported, tmp_path: Path) -> None:
    run = Path(shutil.copytree(table.run, tmp_path / "run"))
    (run / "history.csv").unlink()
    (run / "summary.json").write_text("{")
    assert page_of(run, table.found) == ([run / "report.html"], "")
    page = Page((run / "report.html").read_text())
    assert "Validation ELBO: not computed." in page.text and "training" not in json.loads(page.data)["figures"]


def test_parts_that_are_long_are_cut_and_columns_are_named(table: Reported) -> None:
    vae, splits = runs.read_model(table.run), runs.read_splits(table.run, None)
    found = what_was_trained(vae, splits, {})
    assert list(found) == ["Data", "Model"]
    lines = dict(found["Data"])
    assert lines["name"] == "people.csv" and f"{HOSTILE[0]} (real)" in lines["columns"]
    assert all(len(text) <= 400 for part in found.values() for _, text in part)


def test_the_templates_are_installed_with_the_package() -> None:
    setup = configparser.ConfigParser()
    setup.read(Path(__file__).parents[1] / "setup.cfg")
    assert setup["options.package_data"]["pyro_vae.web"] == "templates/*"
    names = {file.name for file in report.TEMPLATES.iterdir()}
    assert names == {"report.html.j2", "report.css", "report.js", "explorer.html", "explorer.css"}


def test_a_replaced_run_loses_its_report() -> None:
    assert "report.html" in runs.FILES
