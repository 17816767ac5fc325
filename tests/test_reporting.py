"""The progress bar of `fit`, and tables as plain text."""

from __future__ import annotations

import io
import sys

import pytest
from cases import draw_data, small_vae

from pyro_vae import History, reporting
from pyro_vae.training.progress import ProgressBar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_shows_the_bound_and_its_parts_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    bar = ProgressBar(2)
    history = History()
    for epoch in (1, 2):
        bar.count_step()
        history.append(epoch=epoch, train_bound=-3.456, train_reconstruction=-2.0, train_kl=1.456, valid_bound=-4.0)
        bar.show_epoch(history)
    bar.close()
    shown = screen.getvalue()
    assert "2/2" in shown
    assert "bound -3.46, reconstruction -2.00, KL 1.46, validation bound -4.00" in shown


def test_nothing_is_shown_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    vae = small_vae()
    vae.fit(draw_data(vae.likelihood, 8), epochs=1, seed=0)
    assert capsys.readouterr() == ("", "")


def test_the_bar_leaves_out_parts_that_an_estimator_does_not_report(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    bar, history = ProgressBar(1), History()
    history.append(epoch=1, train_bound=-3.0)
    bar.show_epoch(history)
    bar.close()
    assert "bound -3.00" in screen.getvalue()
    assert "KL" not in screen.getvalue()


def test_tables_align_names_left_and_numbers_right_and_leave_none_empty() -> None:
    lines = [{"name": "a", "nats": -1.5, "rows": 3}, {"name": "longer", "nats": None, "rows": 12}]
    assert reporting.table(lines).splitlines() == [
        "name      nats  rows",
        "a       -1.500     3",
        "longer            12",
    ]
