"""Small runs for the tests of pages, and HTML read as a browser reads it."""

from __future__ import annotations

import base64
import io
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from matplotlib.image import imread

import pyro_vae as pv
from pyro_vae.cli import commands, main, scoring
from pyro_vae.criticism.diagnosis import Diagnosis, diagnose

SMALL = ["--epochs", "3", "--hidden", "16", "--no-pictures", "--num-likelihood-particles", "30"]
FEW_ROWS = ["--num-likelihood-rows", "2"]
HOSTILE = ("<script>alert(1)</script>", "</script><img src=x onerror=alert(2)>", "a & b $x$ {{ 7 }}")


@contextmanager
def short_annealing():
    """Few temperatures where the command line scores rows: for tests about commands and pages, not about numbers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "ANNEALING", pv.evaluation.AIS(num_steps=3, num_chains=4))
        yield


def train_digits(folder: Path, *more: str) -> Path:
    """A run on 150 of the digits, with their labels."""
    rows = pv.datasets.load("digits").train.subset(slice(0, 150))
    np.savez(folder / "digits.npz", x=rows.take(slice(None))["x"].numpy(), label=rows.fields["label"].numpy())
    parts = ["--likelihood", "binomial", "--latent-dim", "3", "--prior", "normal", "--guide", "normal"]
    with short_annealing():
        run = folder / "my digits"
        options = [*parts, *SMALL, *FEW_ROWS, *more]
        assert main(["train", str(folder / "digits.npz"), "--run-dir", str(run), *options]) == 0
    return run


def hostile_table(rows: int = 90) -> pandas.DataFrame:
    """Columns and levels whose names are HTML, with missing cells."""
    numbers = np.random.RandomState(0)
    first, second, third = HOSTILE
    frame = pandas.DataFrame(
        {
            first: numbers.normal(70, 9, rows).round(2),
            second: numbers.choice(["<b>low</b>", "</script>", "'\"&"], rows),
            third: numbers.poisson(3, rows),
            "seen": (pandas.Timestamp("2024-01-01") + pandas.to_timedelta(numbers.randint(0, 90, rows), "D")).astype(
                str
            ),
        }
    )
    frame.loc[[1, 5, 40], first] = None
    return frame


def train_table(folder: Path) -> Path:
    hostile_table().to_csv(folder / "people.csv", index=False)
    with short_annealing():
        assert main(["train", str(folder / "people.csv"), "--run-dir", str(folder / "run"), *SMALL, *FEW_ROWS]) == 0
    return folder / "run"


def train_covariates(folder: Path) -> Path:
    """A run on two columns given three others: a number, levels and a date, whose names and levels are HTML."""
    frame = hostile_table().fillna({HOSTILE[0]: 70.0})
    frame["score"] = np.random.RandomState(1).normal(frame[HOSTILE[0]] / 9, 0.3).round(2)
    frame.to_csv(folder / "people.csv", index=False)
    reach = ["--covariates", ",".join(f'"{name}"' for name in (*HOSTILE[:2], "seen")), *SMALL, *FEW_ROWS]
    reach += ["--covariates-into", "encoder,decoder,prior", "--prior", "normal"]
    with short_annealing():
        assert main(["train", str(folder / "people.csv"), "--run-dir", str(folder / "given"), *reach]) == 0
    return folder / "given"


def evaluate(run: Path) -> tuple[str, Diagnosis]:
    """Evaluate a run with its report; returns what was printed, and the diagnosis."""
    printed, found = io.StringIO(), []

    def kept(*arguments: Any, **options: Any) -> Diagnosis:
        found.append(diagnose(*arguments, **options))
        return found[-1]

    with pytest.MonkeyPatch.context() as patch, short_annealing(), redirect_stdout(printed):
        patch.setattr(commands, "diagnose", kept)
        assert main(["evaluate", str(run), "--report", "--num-particles", "30", "--rows", "2"]) == 0
    return printed.getvalue(), found[0]


def pixels(uri: str) -> np.ndarray:
    """The pixels of a PNG picture in a data URI, in 0..1."""
    head, _, content = uri.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(imread(io.BytesIO(base64.b64decode(content))))


@dataclass
class Page(HTMLParser):
    """The elements of a page, its headings, and its text without scripts and styles."""

    html: str
    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    headings: list[tuple[int, str]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    data: str = ""

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.within: list[str] = []
        self.feed(self.html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("h1", "h2", "h3"):
            self.headings.append((int(tag[1]), ""))
        if tag not in ("meta", "link", "input", "img", "br"):
            self.within.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.within and self.within.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        inside = self.within[-1] if self.within else ""
        if inside == "script":
            self.data = self.data or data  # the first script holds the page's data
        elif inside != "style":
            self.words.append(data)
            if inside in ("h1", "h2", "h3"):
                level, text = self.headings[-1]
                self.headings[-1] = level, text + data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())
