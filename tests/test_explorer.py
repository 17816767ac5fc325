"""The latent explorer: what it answers about a run, what it refuses, and that it serves this computer alone."""

from __future__ import annotations

import json
import math
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pages import train_digits, train_table

import pyro_vae as pv
from pyro_vae.cli import main, runs
from pyro_vae.web import server
from pyro_vae.web.explored import Explored, _slider

pytest.importorskip("dash", reason="dash is absent: pip install 'pyro-vae[explore]'")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_table(tmp_path_factory.mktemp("table"))


@pytest.fixture
def explored(digits: Path) -> Explored:
    return Explored("digits", runs.read_model(digits), runs.read_splits(digits, None))


def test_the_posterior_of_a_row_is_that_of_the_guide(explored: Explored) -> None:
    found = explored.posterior(4)
    q = explored.vae.encode(explored.rows.subset([4]))
    scale = q.stddev[0].double()
    assert torch.allclose(found.mean, q.mean[0].double())
    for end, quantile in ((found.low, -1.645), (found.high, 1.645)):
        assert ((end - found.mean - quantile * scale) / scale).abs().max() < 0.35  # 5 standard errors of 1,000 draws
    assert found.drawn.shape == (200, 2) and explored.posterior(4) is found
    assert str(found.data).startswith("data:image/png") and found.data != found.again
    assert explored.posterior(5) is not found


def test_the_sliders_start_at_the_posterior_mean_and_cover_the_rows(explored: Explored) -> None:
    values = explored.at_row(3)
    for value, one in zip(values, explored.sliders, strict=True):
        assert abs(value - float(explored.means[3, one.dim])) <= one.step / 2 + 1e-6
        assert one.low <= explored.means[:, one.dim].min() and explored.means[:, one.dim].max() <= one.high
        assert one.low <= -4 and one.high >= 4  # of a standard normal prior
    z = explored.point(3, values)
    assert z.shape == (1, 3) and torch.allclose(z[0, [s.dim for s in explored.sliders]], torch.tensor(values).double())
    mean, drawn = explored.decode(z, seed=0)
    assert mean == explored.view.show_means(explored.vae.decode(z))[0]
    assert explored.decode(z, seed=0)[1] == drawn != explored.decode(z, seed=1)[1]


def test_only_numbers_within_the_sliders_reach_the_model(explored: Explored) -> None:
    mean, first = explored.means[0], explored.sliders[0]
    for value in (None, "x", "__import__('os')", math.nan, "nan", "inf", [1], {"a": 1}, True, "9" * 50):
        assert torch.equal(explored.point(0, [value, value, value]), mean.unsqueeze(0)), value
    assert explored.point(0, [1e9, None, None])[0, first.dim] == first.high
    assert explored.point(0, ["-1e9", None, None])[0, first.dim] == first.low
    for row in (-1, len(explored), 1.5, "0", None, True):
        assert explored.check_row(row) is None
        with pytest.raises(ValueError, match=r"row must be 0 to 14; got .*\. Choose one of these\."):
            explored.posterior(row)  # type: ignore[arg-type]


@pytest.mark.parametrize("ends", [(-4.0, 4.0), (-0.013, 0.2), (-1e4, 3e5), (2.0, 2.0)])
def test_a_slider_has_round_ends_and_a_hundred_steps_or_more(ends: tuple[float, float]) -> None:
    one = _slider(0, *ends)
    assert one.low <= ends[0] and ends[1] <= one.high
    if ends[0] < ends[1]:
        assert 100 <= (one.high - one.low) / one.step <= 304
    assert len(f"{one.step:.0e}") == 5 and f"{one.step:e}"[0] in "125"


def test_many_latents_have_sliders_for_those_that_vary_most() -> None:
    vae = pv.VAE(likelihood=pv.likelihoods.Bernoulli(6), prior=pv.priors.Normal(20), seed=0)
    rows = pv.Rows(torch.rand(30, 6, generator=torch.Generator().manual_seed(0)).round())
    splits = pv.datasets.Splits("rows", rows, rows, rows, (6,), "Bernoulli", {}, "", {})
    found = Explored("rows", vae, splits)
    assert len(found.sliders) == 16 and "20 latents, of which the 16 that vary most can be moved" in found.about
    assert [one.dim for one in found.sliders] == sorted(one.dim for one in found.sliders)
    kept = {one.dim for one in found.sliders}
    rest = [dim for dim in range(20) if dim not in kept]
    assert found.means[:, rest].var(0).max() <= found.means[:, sorted(kept)].var(0).min()
    assert torch.equal(found.point(2, [0.0] * 16)[0, rest], found.means[2, rest])


def post(client: Any, app: Any, output: str, values: dict[str, Any], changed: str) -> Any:
    """Call the callback with this output as a browser does; returns what it changes."""
    (key,) = [name for name in app.callback_map if output in name]
    inputs = [{**one, "value": values.get(one["id"])} for one in app.callback_map[key]["inputs"]]
    names = [name.split("@")[0].rpartition(".") for name in key.strip(".").split("...")]
    outputs: Any = [{"id": name, "property": prop} for name, _, prop in names]
    body = {"output": key, "outputs": outputs if key.startswith("..") else outputs[0], "inputs": inputs}
    found = client.post("/_dash-update-component", json=body | {"changedPropIds": [changed]})
    return {} if found.status_code == 204 else json.loads(found.data)["response"]


def test_the_page_follows_rows_clicks_and_sliders(digits: Path) -> None:
    from pyro_vae.web.explorer import explorer

    run = Explored("digits", runs.read_model(digits), runs.read_splits(digits, None))
    app = explorer([run])
    client = app.server.test_client()
    sliders = {f"slider-0-{k}": value for k, value in enumerate(run.at_row(2))}
    shown = post(client, app, "shown-0.children", {"row": 2, **sliders}, "row.value")
    titles = [
        one["props"]["children"][1]["props"]["children"] for one in shown["shown-0"]["children"]["props"]["children"]
    ]
    assert titles[:2] == ["E[x | z] at the sliders", "Test row 2"] and len(titles) == 4
    cross = shown["map-0"]["figure"]["data"][-1]
    moved = post(client, app, "shown-0.children", {"row": 2, **sliders, "slider-0-0": "3"}, "slider-0-0.value")
    assert moved["value-0-0"]["children"] == "3.00" and moved["map-0"]["figure"]["data"][-1] != cross
    assert moved["shown-0"] != shown["shown-0"]
    assert len(moved["posterior-0"]["figure"]["data"][0]["x"]) == 3
    again = post(client, app, "slider-0-0.value", {"row": 7, "back-0": 1}, "back-0.n_clicks")
    assert [again[f"slider-0-{k}"]["value"] for k in range(3)] == run.at_row(7)
    click = {"points": [{"customdata": 6}]}
    assert post(client, app, "row.value", {"map-0": click}, "map-0.clickData") == {"row": {"value": 6}}
    assert post(client, app, "row.value", {"map-0": {"points": [{"customdata": "x"}]}}, "map-0.clickData") == {}
    said = post(client, app, "said.children", {"row": 99}, "row.value")
    assert said == {"said": {"children": "Choose a row from 0 to 14."}}
    assert post(client, app, "shown-0.children", {"row": 99, **sliders}, "row.value") == {}


def test_other_hosts_are_refused_and_the_page_has_a_policy(table: Path) -> None:
    made = server.make_server([("table", runs.read_model(table), runs.read_splits(table, None))], 0)
    try:
        assert made.server_address[0] == "127.0.0.1" and made.port > 0
        client = made.app.test_client()
        page = client.get("/", headers={"Host": "127.0.0.1:8050"})
        assert page.status_code == 200 and b'<html lang="en">' in page.data and b"default-src 'self'" in page.data
        assert client.get("/", headers={"Host": "rebound.example"}).status_code == 400
        with pytest.raises(OSError, match=r"--port must be free; got .*\. Choose another, or 0 for any\."):
            server.make_server([("table", runs.read_model(table), runs.read_splits(table, None))], made.port)
    finally:
        made.server_close()


def fails(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("pyro-vae: error: ") and text in err and err.count("\n") == 1


def test_what_cannot_be_explored_is_refused_by_name(
    digits: Path, table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fails(["explore", str(digits), str(table)], "RUN2 must be on the test rows of RUN, 'my digits'; got 'run'", capsys)
    fails(["explore", str(digits), "--port", "70000"], "must be a port, 0 to 65535; got 70000", capsys)
    fails(["explore", str(digits / "none")], "RUN must be a folder that `train` wrote", capsys)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        fails(["explore", str(digits), "--port", str(port)], f"--port must be free; got {port}", capsys)
    likelihood = pv.likelihoods.Bernoulli(3)
    discrete = pv.VAE(likelihood=likelihood, prior=pv.priors.Bernoulli(2), guide=pv.guides.Bernoulli(), seed=0)
    monkeypatch.setattr(runs, "read_model", lambda folder: discrete)
    fails(["explore", str(digits)], "must be of a model whose latents are real numbers; got latents in", capsys)
    monkeypatch.setitem(sys.modules, "dash", None)
    fails(["explore", str(digits)], "Install it: pip install 'pyro-vae[explore]'.", capsys)


@pytest.mark.slow
def test_the_command_says_where_the_page_is_and_ends_quietly_with_ctrl_c(digits: Path) -> None:
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a parent may ignore it
        "from pyro_vae.cli import main\n"
        f"sys.exit(main(['explore', {str(digits)!r}, '--port', '0', '--no-browser']))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("Latent explorer of my digits: http://127.0.0.1:") and "(Ctrl-C ends it)" in line
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (out, err, process.returncode) == ("", "", 0)
