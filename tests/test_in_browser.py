"""The report and the explorer in a real browser without the network: no error, sliders, keyboard, narrow screens."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import open_browser, overflow, requested, resize, wait_for
from pages import evaluate, train_covariates, train_digits, train_table

from pyro_vae.cli import runs
from pyro_vae.web import server

pytest.importorskip("plotly", reason="plotly is absent: pip install 'pyro-vae[report]'")
pytest.importorskip("jinja2", reason="jinja2 is absent: pip install 'pyro-vae[report]'")
pytest.importorskip("dash", reason="dash is absent: pip install 'pyro-vae[explore]'")

pytestmark = pytest.mark.slow
WIDTHS = (1280, 390)
SHOWN = "return document.getElementById('traversal-shown').innerHTML"
DRAWN = "return document.querySelectorAll('.plot .main-svg').length > 0"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def trained(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {"digits": train_digits(tmp_path_factory.mktemp("digits"))}
    found["table"] = train_table(tmp_path_factory.mktemp("table"))
    found["given"] = train_covariates(tmp_path_factory.mktemp("given"))
    for run in found.values():
        evaluate(run)
    return found


@pytest.fixture(params=["digits", "table", "given"])
def report(request: pytest.FixtureRequest, trained: dict[str, Path]) -> str:
    return (trained[request.param] / "report.html").as_uri()


def quiet(browser: Any) -> None:
    """Nothing is in the browser's console: no error, no warning, nothing that the page's policy refused."""
    assert browser.get_log("browser") == []


def press(element: Any, *names: str) -> None:
    from selenium.webdriver.common.keys import Keys

    for name in names:
        element.send_keys(getattr(Keys, name))


@pytest.mark.parametrize("width", WIDTHS)
def test_the_report_opens_without_error_or_request_and_fits_the_screen(browser: Any, report: str, width: int) -> None:
    resize(browser, width)
    requested(browser)
    browser.get(report)
    wait_for(browser, DRAWN)
    plots, drawn = browser.execute_script(
        "return [document.querySelectorAll('.plot').length, document.querySelectorAll('.plot.js-plotly-plot').length]"
    )
    assert plots == drawn >= 8
    assert overflow(browser) == 0
    assert requested(browser) == [report]
    buttons = browser.execute_script("return [...document.querySelectorAll('.modebar-btn')].map(b => b.dataset.title)")
    assert not [title for title in buttons if "cloud" in title.lower() or "share" in title.lower()]
    quiet(browser)


def test_the_slider_changes_what_is_shown_and_obeys_the_keyboard(browser: Any, report: str) -> None:
    from selenium.webdriver.common.by import By

    resize(browser, 1280)
    browser.get(report)
    wait_for(browser, DRAWN)
    slider = browser.find_element(By.ID, "place")
    assert slider.tag_name == "input" and slider.get_attribute("type") == "range"
    seen = [browser.execute_script(SHOWN)]
    press(slider, "HOME")
    assert slider.get_attribute("value") == "0"
    seen.append(browser.execute_script(SHOWN))
    press(slider, *["ARROW_RIGHT"] * 8)
    assert slider.get_attribute("value") == "8" and "1 standard deviation below" in slider.get_attribute(
        "aria-valuetext"
    )
    seen.append(browser.execute_script(SHOWN))
    press(slider, "END")
    seen.append(browser.execute_script(SHOWN))
    press(browser.find_element(By.ID, "latent"), "ARROW_DOWN")
    seen.append(browser.execute_script(SHOWN))
    assert len(set(seen)) == len(seen)
    quiet(browser)


def test_a_point_of_the_map_and_the_number_of_a_row_show_the_row(browser: Any, report: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    resize(browser, 1280)
    browser.get(report)
    wait_for(browser, DRAWN)
    row, shown = browser.find_element(By.ID, "row"), browser.find_element(By.ID, "row-shown")
    assert "Row 0" in shown.text
    press(row, "ARROW_UP", "ARROW_UP")
    assert "Row 2" in shown.text
    row.clear()
    row.send_keys("-5")
    assert "Row 2" in shown.text, "there is no such row"
    browser.execute_script("document.getElementById('figure-map').scrollIntoView({block: 'center'})")
    point = browser.find_element(By.CSS_SELECTOR, "#figure-map .scatterlayer .point")
    ActionChains(browser).move_to_element(point).perform()
    hovered = wait_for(browser, "return document.querySelector('#figure-map .hoverlayer').textContent")
    assert hovered.startswith("row ")
    wait_for(browser, "return !document.getElementById('row-shown').textContent.includes('Row 2')")
    quiet(browser)


def test_the_report_prints_on_pages_that_hold_its_figures(browser: Any, report: str) -> None:
    resize(browser, 1280)
    browser.get(report)
    wait_for(browser, DRAWN)
    widths = browser.execute_script(
        "window.dispatchEvent(new Event('beforeprint'));"
        "const found = [...document.querySelectorAll('.plot .main-svg')].map(svg => svg.clientWidth);"
        "window.dispatchEvent(new Event('afterprint')); return found"
    )
    assert max(widths) <= 640
    assert len(browser.execute_cdp_cmd("Page.printToPDF", {})["data"]) > 50_000
    quiet(browser)


@pytest.fixture(
    params=[["digits"], ["table"], ["given"], ["digits", "digits"]], ids=["digits", "table", "given", "two runs"]
)
def served(request: pytest.FixtureRequest, browser: Any, trained: dict[str, Path]) -> Iterator[str]:
    """The address of an explorer."""
    yield from serve(browser, {f"{name} {i}": trained[name] for i, name in enumerate(request.param)})


def serve(browser: Any, folders: dict[str, Path]) -> Iterator[str]:
    """The address of an explorer of these runs, by name, until the next value is asked for."""
    explored = [(name, runs.read_model(run), runs.read_splits(run, None)) for name, run in folders.items()]
    made = server.make_server(explored, 0)
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{made.port}/"
    browser.get("about:blank")
    browser.get_log("browser")  # requests that the page had not finished
    made.shutdown()
    thread.join(timeout=30)
    made.server_close()


READY = "return document.querySelector('#shown-0 figure, #shown-0 td') && document.querySelector('#map-0 .main-svg')"


def test_the_explorer_follows_the_keyboard_and_fits_the_screen(browser: Any, served: str) -> None:
    from selenium.webdriver.common.by import By

    for width in WIDTHS:
        resize(browser, width)
        requested(browser)
        browser.get(served)
        wait_for(browser, READY)
        assert overflow(browser) == 0
        assert all(url.startswith(served) for url in requested(browser))
    shown = "return document.getElementById('shown-0').innerHTML"
    before = browser.execute_script(shown)
    slider = browser.find_element(By.ID, "slider-0-0")
    assert slider.get_attribute("type") == "range"
    assert browser.find_element(By.CSS_SELECTOR, "label[for='slider-0-0']").text.startswith("z")
    press(slider, "END")
    wait_for(
        browser,
        f"return document.getElementById('value-0-0').textContent === '{float(slider.get_attribute('max')):.2f}'",
    )
    moved = wait_for(browser, f"const now = (() => {{ {shown} }})(); return now !== {before!r} && now")
    row = browser.find_element(By.ID, "row")
    press(row, "ARROW_UP")
    wait_for(browser, "return document.getElementById('shown-0').textContent.includes('Test row 1')")
    assert browser.execute_script(shown) != moved
    back = browser.execute_script("return document.getElementById('value-0-0').textContent")
    assert back != f"{float(slider.get_attribute('max')):.2f}"
    press(row, "BACKSPACE", "BACKSPACE", "BACKSPACE")
    row.send_keys("9999")
    wait_for(browser, "return document.querySelector('[role=status]').textContent.startsWith('Choose a row')")
    quiet(browser)


def test_a_click_into_a_map_chooses_its_row(browser: Any, served: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    resize(browser, 1280)
    browser.get(served)
    wait_for(browser, READY)
    browser.execute_script("document.getElementById('map-0').scrollIntoView({block: 'center'})")
    for point in browser.find_elements(By.CSS_SELECTOR, "#map-0 .scatterlayer .trace:nth-child(2) .point")[:3]:
        ActionChains(browser).move_to_element(point).click().perform()
    wait_for(browser, "return !document.getElementById('shown-0').textContent.includes('Test row 0')")
    quiet(browser)


def test_covariates_are_chosen_by_keyboard_and_go_back_with_the_row(browser: Any, trained: dict[str, Path]) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    resize(browser, 1280)
    for address in serve(browser, {"given": trained["given"]}):
        browser.get(address)
        wait_for(browser, READY)
        shown = "return document.getElementById('shown-0').innerHTML"
        seen = [browser.execute_script(shown)]
        level = browser.find_element(By.ID, "covariate-0-1")
        start = level.text
        press(level, "ENTER")
        focused = "document.activeElement.closest('[role=option]')?.dataset.optionIndex"
        place = wait_for(browser, f"return {focused}")
        ActionChains(browser).send_keys(Keys.ARROW_DOWN if place == "0" else Keys.ARROW_UP).perform()
        wait_for(browser, f"return {focused} !== undefined && {focused} !== '{place}'")
        ActionChains(browser).send_keys(Keys.ENTER).perform()
        wait_for(browser, f"return document.getElementById('covariate-0-1').innerText !== {start!r}")
        seen.append(wait_for(browser, f"const now = (() => {{ {shown} }})(); return now !== {seen[-1]!r} && now"))
        number = browser.find_element(By.ID, "covariate-0-0")
        assert browser.find_element(By.CSS_SELECTOR, "label[for='covariate-0-0']").text.startswith("<script>")
        number.clear()
        number.send_keys("1000000")
        wait_for(browser, "return document.getElementById('asked-0').textContent.includes('must be a number from')")
        browser.find_element(By.ID, "back-0").click()
        wait_for(browser, f"return (() => {{ {shown} }})() === {seen[0]!r}")
        assert browser.find_element(By.ID, "covariate-0-1").text == start
        quiet(browser)
