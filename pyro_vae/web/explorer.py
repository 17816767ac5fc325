"""The page of the latent explorer: what stands where, and what follows what."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyro_vae.plots import GREY, INK, VALID
from pyro_vae.web.explored import Explored, Posterior
from pyro_vae.web.figures import latent_map, layout, numbers
from pyro_vae.web.views import RowView

__all__ = ["explorer"]

TEMPLATES = Path(__file__).parent / "templates"
GRAPH: dict[str, Any] = {"displaylogo": False, "displayModeBar": False, "responsive": True, "showSendToCloud": False}


def explorer(runs: Sequence[Explored]) -> Any:
    """The explorer of one run, or of two on the same test rows, as a Dash application.

    Raises:
        ImportError: if dash is not installed.
    """
    import dash

    app = dash.Dash("pyro_vae", title="Latent explorer", update_title="", include_assets_files=False)
    style = "".join((TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.css", "explorer.css"))
    page = (TEMPLATES / "explorer.html").read_text(encoding="utf-8")
    app.index_string = page.replace("<!-- style -->", f"<style>{style}</style>")
    app.layout = _layout(runs)
    _follow_rows(app, runs)
    for place, run in enumerate(runs):
        _follow_sliders(app, place, run)
    return app


def _components() -> tuple[Any, Any]:
    """The two modules of components of Dash."""
    from dash import dcc, html

    return dcc, html


def _layout(runs: Sequence[Explored]) -> Any:
    dcc, html = _components()

    last = len(runs[0]) - 1
    names = " and ".join(run.name for run in runs)
    kept = "" if runs[0].test_rows == len(runs[0]) else f" The first {len(runs[0]):,} test rows can be chosen."
    about = (
        f"Pick a test row to see its posterior, or click a point of a map. Move the sliders to see p(x given z).{kept}"
    )
    row = dcc.Input(id="row", type="number", min=0, max=last, step=1, value=0, debounce=False)
    return html.Div(
        [
            html.Header([html.H1(f"Latent explorer: {names}"), html.P(about)]),
            html.Main(
                [
                    html.P([html.Label(f"Test row, 0 to {last}", htmlFor="row"), " ", row]),
                    html.P(id="said", role="status"),
                    html.Div([_of_run(place, run) for place, run in enumerate(runs)], className=f"runs of-{len(runs)}"),
                ]
            ),
        ]
    )


def _of_run(place: int, run: Explored) -> Any:
    """The part of the page about one run."""
    dcc, html = _components()

    buttons = [
        html.Button(
            f"Back to the row's posterior mean{' and covariates' if run.choices else ''}",
            id=f"back-{place}",
            type="button",
        ),
        html.Button("Another draw of x", id=f"more-{place}", type="button"),
    ]
    sliders = [_slider(place, k, run) for k in range(len(run.sliders))]
    chosen = [_choice(place, k, run) for k in range(len(run.choices))]
    about = html.P("Covariates to decode under. They are the row's own until you choose others.") if chosen else None
    key = "Ring: the row's posterior mean; grey: draws from its posterior; cross: the sliders."
    intervals = "Mean and central 90 % interval of each latent given x; cross: the sliders."
    figures = [
        ("map", "Map of the latents", f"{run.plane.about} {key}", 420 if run.plane.names[1] else 200),
        ("posterior", "Posterior of the row", intervals, None),
    ]
    drawn = []
    for name, title, caption, height in figures:
        style = {"height": f"{height or 110 + 26 * len(sliders)}px"}
        graph = dcc.Graph(id=f"{name}-{place}", config=GRAPH, className="plot", style=style)
        drawn.append(html.Figure([html.H3(title), graph, html.Figcaption(caption)]))
    return html.Section(
        [
            html.H2(run.name),
            html.P(run.about),
            html.Div(id=f"shown-{place}"),
            html.P(id=f"given-{place}"),
            html.P(buttons, className="buttons"),
            html.P(id=f"asked-{place}", role="status"),
            about,
            html.Div(chosen, className="choices", role="group", **{"aria-label": f"Covariates of {run.name}"})
            if chosen
            else None,
            html.Div(sliders, className="sliders", role="group", **{"aria-label": f"Latents of {run.name}"}),
            html.Div(drawn, className="figures"),
        ],
        **{"aria-label": run.name},
    )


def _slider(place: int, k: int, run: Explored) -> Any:
    dcc, html = _components()

    one, name = run.sliders[k], f"slider-{place}-{k}"
    value = run.at_row(0)[k]
    moved = dcc.Input(id=name, type="range", min=one.low, max=one.high, step=one.step, value=value, debounce=False)
    return html.Div([html.Label(f"z{one.dim}", htmlFor=name), moved, html.Span(id=f"value-{place}-{k}")])


def _choice(place: int, k: int, run: Explored) -> Any:
    """A covariate with a list of its levels, or a field for a number."""
    dcc, html = _components()

    one, name, value = run.choices[k], f"covariate-{place}-{k}", run.covariates_at(0)[k]
    text = f"{one.name} ({one.unit})" if one.unit else one.name
    if one.levels:
        levels = [{"label": level, "value": i} for i, level in enumerate(one.levels)]
        chosen = dcc.Dropdown(levels, value, id=name, clearable=False)
    else:
        low, high = one.ends
        chosen = dcc.Input(id=name, type="number", min=low, max=high, step="any", value=value, debounce=False)
    return html.Div([html.Label(text, htmlFor=name), chosen], role="group", **{"aria-label": text})


def _follow_rows(app: Any, runs: Sequence[Explored]) -> None:
    """A click into a map chooses the row; a row, or the button, sets the sliders to its posterior mean."""
    from dash import Input, Output, ctx, no_update

    clicks = [Input(f"map-{place}", "clickData") for place in range(len(runs))]

    @app.callback(Output("row", "value"), *clicks, prevent_initial_call=True)  # type: ignore[untyped-decorator]
    def choose(*clicked: Any) -> Any:
        place = next((i for i in range(len(runs)) if ctx.triggered_id == f"map-{i}"), 0)
        points = clicked[place]["points"] if isinstance(clicked[place], dict) else []
        row = runs[place].check_row(points[0].get("customdata")) if points else None
        return no_update if row is None else row

    @app.callback(Output("said", "children"), Input("row", "value"))  # type: ignore[untyped-decorator]
    def say(row: Any) -> str:
        return "" if runs[0].check_row(row) is not None else f"Choose a row from 0 to {len(runs[0]) - 1}."

    for place, run in enumerate(runs):
        moved = [Output(f"slider-{place}-{k}", "value") for k in range(len(run.sliders))]
        moved += [Output(f"covariate-{place}-{k}", "value") for k in range(len(run.choices))]

        @app.callback(*moved, Input("row", "value"), Input(f"back-{place}", "n_clicks"))  # type: ignore[untyped-decorator]
        def set_sliders(row: Any, clicks: Any, run: Explored = run) -> Any:
            number = run.check_row(row)
            if number is None:
                values: list[Any] = [no_update] * (len(run.sliders) + len(run.choices))
            else:
                values = [*run.at_row(number), *run.covariates_at(number)]
            return values[0] if len(values) == 1 else values


def _follow_sliders(app: Any, place: int, run: Explored) -> None:
    """The sliders and covariates say at which z p(x | z) is shown, and where the cross of the figures lies."""
    from dash import Input, Output, no_update

    size = len(run.sliders)
    texts = [Output(f"value-{place}-{k}", "children") for k in range(size)]
    inputs = [Input(f"slider-{place}-{k}", "value") for k in range(size)]
    inputs += [Input(f"covariate-{place}-{k}", "value") for k in range(len(run.choices))]
    words = [Output(f"{name}-{place}", "children") for name in ("shown", "given", "asked")]
    figures = [Output(f"{name}-{place}", "figure") for name in ("map", "posterior")]

    @app.callback(*words, *figures, *texts, Input("row", "value"), Input(f"more-{place}", "n_clicks"), *inputs)  # type: ignore[untyped-decorator]
    def decode(row: Any, clicks: Any, *values: Any) -> Any:
        number = run.check_row(row)
        if number is None:
            return [no_update] * (5 + size)
        seed = clicks if isinstance(clicks, int) and 0 <= clicks < 2**31 else 0
        z, found, asked = run.point(number, list(values[:size])), run.posterior(number), values[size:]
        things = _things(run, number, z, asked, seed)
        return [
            _pictures(things) if run.view.kind == "picture" else _cells(things, run.view.columns),
            f"Test row {number}: {run.given[number]}." if run.given[number] else "",
            " ".join(filter(None, (one.said(value) for one, value in zip(run.choices, asked, strict=True)))),
            _map(run, found, z, number),
            _intervals(run, found, z),
            *(f"{float(z[0, one.dim]):.2f}" for one in run.sliders),
        ]


def _things(run: Explored, row: int, z: Any, asked: Sequence[Any], seed: int) -> dict[str, tuple[RowView, str]]:
    """What is shown of a row and of p(x | z) at the sliders, with texts for those who do not see it, by title."""
    found = run.posterior(row)
    mean, drawn = run.decode(z, seed, run.under(row, asked))
    at = ", ".join(f"z{one.dim} = {float(z[0, one.dim]):.2f}" for one in run.sliders[:8])
    there = "at the sliders and covariates" if run.choices else "at the sliders"
    own = " and its covariates" if run.choices else ""
    return {
        f"E[x | z] {there}": (mean, f"E[x | z] at {at}"),
        f"Test row {row}": (found.data, f"test row {row}"),
        f"E[x | z] at its posterior mean{own}": (found.again, f"reconstruction of test row {row}"),
        f"A draw of x {there}": (drawn, f"a draw of x at {at}"),
    }


def _pictures(things: Mapping[str, tuple[RowView, str]]) -> Any:
    """Pictures beside each other: from their titles to their data URIs and their texts."""
    _, html = _components()

    wide = [str(source).startswith("data:image/svg") for source, _ in things.values()]
    figures = [
        html.Figure([html.Img(src=source, alt=text, className="wide" if long else "small"), html.Figcaption(title)])
        for (title, (source, text)), long in zip(things.items(), wide, strict=True)
    ]
    return html.Div(figures, className="shown")


def _cells(things: Mapping[str, tuple[RowView, str]], columns: Sequence[str]) -> Any:
    """The cells of a table, one line a column, with the bars of the first."""
    _, html = _components()

    first, *others = things
    cells: dict[str, Any] = {title: shown for title, (shown, _) in things.items()}
    head = [html.Th(title, scope="col", colSpan=2 if title == first else 1) for title in things]
    lines = []
    for i, name in enumerate(columns):
        words, share = cells[first][i]
        bar: Any = (
            [] if share is None else html.Span(html.Span(style={"width": f"{100 * share:.1f}%"}), className="bar")
        )
        rest = [html.Td(cells[title][i][0]) for title in others]
        lines.append(html.Tr([html.Th(name, scope="row"), html.Td(words), html.Td(bar), *rest]))
    table = html.Table([html.Thead(html.Tr([html.Th("column", scope="col"), *head])), html.Tbody(lines)])
    return html.Div(table, className="scroll compared", role="region", tabIndex=0, **{"aria-label": "Cells"})


def _map(run: Explored, found: Posterior, z: Any, row: int) -> dict[str, Any]:
    """The map with draws from the row's posterior, its mean and the point of the sliders."""
    base = latent_map(run.plane, run.labels, "")
    data, here, mean = base.data[:-1], run.plane.project(z)[0], run.plane.points[row]
    dots: dict[str, Any] = {"type": "scatter", "mode": "markers", "hoverinfo": "skip", "showlegend": False}
    small = {"color": GREY, "size": 4, "opacity": 0.6}
    ring = {"color": "rgba(0,0,0,0)", "size": 16, "line": {"color": INK, "width": 2.5}}
    cross = {"color": VALID, "size": 13, "symbol": "x"}
    drawn = dots | {"x": numbers(found.drawn[:, 0], 4), "y": numbers(found.drawn[:, 1], 4), "marker": small}
    ends = [dots | {"x": [float(p[0])], "y": [float(p[1])], "marker": m} for p, m in ((mean, ring), (here, cross))]
    look = copy.deepcopy(base.layout) | {"uirevision": "kept", "height": None}
    return {"data": [drawn, *data, *ends], "layout": look}


def _intervals(run: Explored, found: Posterior, z: Any) -> dict[str, Any]:
    """Mean and interval of each latent that has a slider."""
    dims = [one.dim for one in run.sliders]
    names = [f"z{dim}" for dim in dims]
    mean, low, high = (part[dims] for part in (found.mean, found.low, found.high))
    bars = {"type": "data", "symmetric": False, "array": numbers(high - mean, 4), "arrayminus": numbers(mean - low, 4)}
    dots: dict[str, Any] = {"type": "scatter", "mode": "markers", "y": names}
    hover = "%{y}: mean %{x:.2f}<extra></extra>"
    row = dots | {"x": numbers(mean, 4), "error_x": bars, "name": "posterior", "hovertemplate": hover}
    cross = {"color": VALID, "size": 10, "symbol": "x"}
    data = [
        row | {"marker": {"color": INK, "size": 8}},
        dots | {"x": numbers(z[0, dims], 4), "name": "sliders", "marker": cross, "hoverinfo": "skip"},
    ]
    look = layout("value of the latent", "", uirevision="kept") | {"height": None}
    look["yaxis"] |= {"autorange": "reversed", "type": "category"}
    return {"data": data, "layout": look}
