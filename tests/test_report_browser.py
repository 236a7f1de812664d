"""The report's page in a real browser: what moves, sorts, zooms and draws, and that nothing is fetched."""

import json
import time

import pytest
import report_folders as build
from browsing import fetched, headless, width

from datamodules.files import write_text
from experiments import effects
from experiments.report import folders, page, sweeps


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with headless(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder = build.comparison(tmp_path_factory.mktemp("page") / "c")
    write_text(folder / "report.html", page.render(folders.read(folder)))
    return folder / "report.html"


@pytest.fixture
def opened(browser, compared):
    """The comparison's page; afterwards nothing may stand in the console or have been fetched."""
    width(browser, 1280)
    browser.get(compared.as_uri())
    yield browser
    check_quiet(browser)


def check_quiet(browser):
    assert browser.get_log("browser") == []
    urls = fetched(browser)
    assert any(url.endswith("report.html") for url in urls)
    assert [url[:60] for url in urls if not url.startswith(("data:", "file:"))] == []


def js(driver, script, *arguments):
    return driver.execute_script(f"return {script}", *arguments)


def until(condition, seconds=5):
    end = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return value


def one(driver, selector):
    found = driver.find_element("css selector", selector)
    driver.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", found)
    return found


def test_the_divider_moves_by_mouse_and_by_keyboard(opened):
    from selenium.webdriver import ActionChains, Keys

    stage, divider = one(opened, "#stage"), one(opened, "#divider")
    share = lambda: int(divider.get_attribute("aria-valuenow"))  # noqa: E731
    assert share() == 50
    ActionChains(opened).click_and_hold(divider).move_by_offset(-round(stage.size["width"] / 4), 0).release().perform()
    assert share() == 25
    assert "75.0" in js(opened, "getComputedStyle(document.querySelector('#left-layer')).clipPath")
    divider.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.PAGE_UP)
    assert share() == 37
    divider.send_keys(Keys.END)
    assert share() == 100
    assert "noisy" in divider.get_attribute("aria-valuetext")


def test_columns_sort_by_number_both_ways_by_click_and_by_key(opened):
    from selenium.webdriver import Keys

    table = one(opened, '#images [data-metric="psnr"] table')
    head = next(th for th in table.find_elements("css selector", "thead th") if th.text == "xDnCNN")
    place = js(opened, "arguments[0].cellIndex", head)
    texts = "[...arguments[0].tBodies[0].rows].map(row => row.cells[arguments[1]].textContent)"
    column = lambda: js(opened, texts, table, place)  # noqa: E731
    head.find_element("tag name", "button").click()
    assert (head.get_attribute("aria-sort"), column()) == ("descending", ["31.50", "20.50", "9.50"])
    head.find_element("tag name", "button").send_keys(Keys.ENTER)
    assert (head.get_attribute("aria-sort"), column()) == ("ascending", ["9.50", "20.50", "31.50"])  # not as text
    other = next(th for th in table.find_elements("css selector", "thead th") if th.text == "DnCNN")
    place = js(opened, "arguments[0].cellIndex", other)
    for values in (["30.00", "19.00", "–"], ["19.00", "30.00", "–"]):
        other.find_element("tag name", "button").click()
        assert column() == values
    assert head.get_attribute("aria-sort") is None
    table = one(opened, "#results table")
    head = next(th for th in table.find_elements("css selector", "thead th") if th.text == "training")
    place = js(opened, "arguments[0].cellIndex", head)
    for values in (["1.5 h", "40.0 min", "–", "–"], ["40.0 min", "1.5 h", "–", "–"]):
        head.find_element("tag name", "button").click()
        assert column() == values


def test_zoom_and_pan_are_shared_by_all_pictures(opened):
    from selenium.webdriver import ActionChains

    placed = lambda: js(opened, "[...document.querySelectorAll('.pane .picture')].map(p => p.style.transform)")  # noqa: E731
    assert len(placed()) == 6
    before = set(placed())
    pane = one(opened, "#grid .pane")
    ActionChains(opened).double_click(pane).perform()
    assert len(set(placed())) == 1
    assert "scale(4)" in placed()[0]
    assert js(opened, "getComputedStyle(document.querySelector('#grid .picture')).imageRendering") == "pixelated"
    still = placed()[0]
    ActionChains(opened).click_and_hold(pane).move_by_offset(20, 10).release().perform()
    assert len(set(placed())) == 1
    assert placed()[0] != still
    one(opened, "#zoom-reset").click()
    assert set(placed()) == before


def test_the_error_is_five_times_the_difference(opened):
    one(opened, "#grid-errors").click()
    script = """(() => { const c = document.querySelector('#grid canvas[data-version="e:1"]');
        return c && c.dataset.painted && [...c.getContext('2d').getImageData(30, 20, 1, 1).data]; })()"""
    assert until(lambda: js(opened, script)) == [35, 35, 35, 255]  # the estimate is brighter by 7
    options = [option.text for option in one(opened, "#left").find_elements("tag name", "option")]
    assert options == [
        "clean",
        "noisy",
        "xDnCNN",
        "DnCNN",
        *(f"error of {m} × 5" for m in ("noisy", "xDnCNN", "DnCNN")),
    ]


def test_images_are_found_stepped_through_and_opened(opened):
    shown = lambda: one(opened, "#explorer-title").text  # noqa: E731
    assert shown() == "boat"
    one(opened, "body").send_keys("n")
    assert shown() == "house"
    one(opened, "body").send_keys("pp")
    assert shown() == "lena"
    one(opened, "#find").send_keys("hou")
    assert shown() == "house"
    one(opened, "#worst .thumb").click()
    assert shown() == "lena"
    js(opened, "document.querySelector('#images button.open').click()")
    assert shown() == "boat"
    assert "31.00" in one(opened, "#scores").text


def test_curves_are_drawn_and_read(opened):
    from selenium.webdriver import ActionChains

    drawn = lambda: len(opened.find_elements("css selector", "#charts polyline"))  # noqa: E731
    assert until(drawn) == 2
    ActionChains(opened).move_to_element(one(opened, "#charts svg")).perform()
    assert "step" in one(opened, "#charts .readout").text
    one(opened, "#legend button").click()
    assert drawn() == 0


def test_a_narrow_page_does_not_scroll_sideways(opened):
    for pixels in (390, 1280):
        width(opened, pixels)
        opened.refresh()
        assert js(opened, "innerWidth") == pixels
        assert js(opened, "document.documentElement.scrollWidth") <= pixels
    assert js(opened, "[...document.querySelectorAll('img')].every(i => i.complete && i.naturalWidth > 0)")


def test_a_page_without_pictures_works(browser, tmp_path):
    folder = build.evaluation(tmp_path / "e", ["<script>x", "b"], drawn=False)
    write_text(folder / "report.html", page.render(folders.read(folder)))
    browser.get((folder / "report.html").as_uri())
    assert one(browser, "#no-pictures").is_displayed()
    assert one(browser, "#images tbody th").text == "<script>x"
    assert browser.get_log("browser") == []


# --- a sweep ----------------------------------------------------------------------------------------------------------

AXES = {"model": ["dncnn", "unet", "swin"], "loss": ["mse", "l1"], "seed": ["0", "1"]}
WORTH = {"dncnn": 30, "unet": 33, "swin": 31.5, "mse": 0, "l1": 1.5, "0": 0, "1": 0.25}


def psnr(**axes):
    return sum(WORTH[v] for v in axes.values()) + (0.5 if axes["model"] == "unet" and axes["loss"] == "l1" else 0)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Twelve cells, of which the last has failed and the one before waits."""
    cells = build.crossed(**AXES)
    cells[-2:] = [cells[-2] | {"state": "waiting"}, cells[-1] | {"state": "failed"}]
    folder = build.sweep(tmp_path_factory.mktemp("sweep") / "s", cells, psnr)
    write_text(folder / "report.html", page.render(sweeps.read(folder)))
    return folder


@pytest.fixture
def sweep_page(browser, swept):
    width(browser, 1280)
    browser.get((swept / "report.html").as_uri())
    browser.execute_script("sessionStorage.clear()")
    browser.execute_script("addEventListener('pagehide', () => sessionStorage.clear())")
    browser.refresh()
    yield browser
    check_quiet(browser)


def choose(driver, selector, value):
    from selenium.webdriver.support.ui import Select

    Select(one(driver, selector)).select_by_value(value)


def keep_only(driver, facet, *levels):
    for box in driver.find_elements("css selector", "#filters input"):
        if js(driver, "arguments[0].facet", box) == facet:
            wanted = js(driver, "arguments[0].level", box) in levels
            js(driver, "arguments[0].checked !== arguments[1] && arguments[0].click()", box, wanted)


def drawn_effects(driver):
    marks = "[...document.querySelectorAll('.effect')].map(m => [m.dataset.level, +m.dataset.effect, +m.dataset.half])"
    return [tuple(mark) for mark in js(driver, marks)]


def expected_effects(swept, **kept):
    cells = [c for c in sweeps.read(swept).sweep.cells if all(c.levels[a] in levels for a, levels in kept.items())]
    found = effects.effects([c.levels for c in cells], [c.scores.get(("Set3", "psnr")) for c in cells], list(AXES))
    return [(level.name, pytest.approx(level.effect), pytest.approx(level.ci95)) for a in found for level in a.levels]


def visible_cells(driver):
    return [row.text for row in driver.find_elements("css selector", "#cells tbody tr:not([hidden]) th")]


def test_every_view_of_a_sweep_follows_the_filters(sweep_page, swept):
    assert len(visible_cells(sweep_page)) == 12
    assert drawn_effects(sweep_page) == expected_effects(swept)
    lines = lambda: len(sweep_page.find_elements("css selector", "#charts figure:first-child polyline"))  # noqa: E731
    assert lines() == 10
    assert "cell 7 (model unet, loss l1, seed 1)" in one(sweep_page, "#best-run").text
    keep_only(sweep_page, "model", "dncnn", "swin")
    keep_only(sweep_page, "loss", "mse")
    assert visible_cells(sweep_page) == ["0", "1", "8", "9"]
    assert one(sweep_page, "#effects .chosen").text == "4 of 12 cells: model dncnn or swin, loss mse"
    wanted = expected_effects(swept, model=("dncnn", "swin"), loss=("mse",))
    assert drawn_effects(sweep_page) == wanted != expected_effects(swept)
    assert [effect[0] for effect in drawn_effects(sweep_page)] == ["dncnn", "swin", "0", "1"]
    assert lines() == 4
    assert "cell 9 (model swin, loss mse, seed 1)" in one(sweep_page, "#best-run").text
    chosen = "document.querySelector('#right').selectedOptions[0].text"
    assert js(sweep_page, chosen) == "9: swin mse seed 1"
    keep_only(sweep_page, "model", "dncnn")
    assert "cell 1 (" in one(sweep_page, "#best-run").text
    assert "its pictures are not in this page but in 1/pictures" in one(sweep_page, "#best-run").text
    one(sweep_page, "#unfilter").click()
    assert len(visible_cells(sweep_page)) == 12
    assert one(sweep_page, "#effects .chosen").text == "all 12 cells"
    assert js(sweep_page, chosen) == "7: unet l1 seed 1"


def test_cells_are_grouped_and_sorted_within_their_group(sweep_page):
    choose(sweep_page, "#group", "loss")
    headings = lambda: [row for row in visible_cells(sweep_page) if ":" in row]  # noqa: E731
    # dncnn, unet and swin, two seeds each; of images at 0, −11 and −22 dB
    assert headings() == [
        "loss mse: 6 cells, PSNR (dB) on Set3 20.63 ± 1.35 (6)",
        "loss l1: 6 cells, PSNR (dB) on Set3 22.38 ± 2.03 (4)",
    ]
    head = next(b for b in sweep_page.find_elements("css selector", "#cells thead button") if b.text == "PSNR (dB)")
    head.click()
    assert [row for row in visible_cells(sweep_page) if ":" not in row] == [
        "5",
        "4",
        "9",
        "8",
        "1",
        "0",
        "7",
        "6",
        "3",
        "2",
        "10",
        "11",
    ]
    assert len(headings()) == 2
    choose(sweep_page, "#group", "")
    assert headings() == []
    row = one(sweep_page, ".state-failed")
    assert "failed" in row.text
    assert "exit code 1: it is broken" in row.text


def test_the_heat_map_has_the_means_of_any_two_axes(sweep_page):
    cells = lambda: [td.text.split("\n") for td in sweep_page.find_elements("css selector", "#heat-map td")]  # noqa: E731
    assert cells()[:2] == [["19.13", "n 2"], ["20.63", "n 2"]]
    assert cells()[-1] == ["–"]
    choose(sweep_page, "#down", "loss")
    choose(sweep_page, "#across", "seed")
    assert cells() == [["20.50", "n 3"], ["20.75", "n 3"], ["22.25", "n 2"], ["22.50", "n 2"]]
    assert "Italics" in one(sweep_page, "#heat-note").text
    choose(sweep_page, "#metric", "1")
    assert cells()[0][0] == "0.8000"


def test_curves_are_coloured_by_any_axis(sweep_page):
    names = lambda: [b.text for b in sweep_page.find_elements("css selector", "#legend button")]  # noqa: E731
    hues = "new Set([...document.querySelectorAll('#charts polyline')].map(p => p.classList[1])).size"
    assert names() == ["model dncnn (4 trainings)", "model unet (4 trainings)", "model swin (2 trainings)"]
    assert js(sweep_page, hues) == 3
    choose(sweep_page, "#colour", "loss")
    assert names() == ["loss mse (6 trainings)", "loss l1 (4 trainings)"]
    assert js(sweep_page, hues) == 2


def test_a_narrow_sweep_does_not_scroll_sideways(sweep_page):
    width(sweep_page, 390)
    sweep_page.refresh()
    assert js(sweep_page, "document.documentElement.scrollWidth") <= 390
    right = (
        "Math.max(...[...document.querySelectorAll('#effects-chart text')].map(t => t.getBoundingClientRect().right))"
    )
    assert js(sweep_page, right) <= 390


@pytest.mark.parametrize(("state", "axes"), [("done", []), ("waiting", ["model", "loss", "seed"])])
def test_a_sweep_without_axes_or_scores_works(browser, tmp_path, state, axes):
    folder = build.sweep(tmp_path / "s", [build.crossed(**AXES)[0] | {"state": state}], psnr)
    ledger = json.loads((folder / "ledger.json").read_text())
    (folder / "ledger.json").write_text(json.dumps(ledger | {"axes": axes}))
    write_text(folder / "report.html", page.render(sweeps.read(folder)))
    browser.get((folder / "report.html").as_uri())
    assert len(visible_cells(browser)) == 1
    assert one_text(browser, "#legend button") == ("cell 0" if state == "done" else None)
    check_quiet(browser)


def test_a_followed_page_loads_itself_and_stays_as_it_was_left(browser, swept, tmp_path, monkeypatch):
    monkeypatch.setattr(sweeps, "RELOAD", 0.4)
    file = tmp_path / "report.html"
    write_text(file, page.render(sweeps.read(swept, followed=True)))
    width(browser, 1280)
    browser.get(file.as_uri())
    pause = "document.querySelector('#following').click()"
    js(browser, pause)
    keep_only(browser, "model", "unet", "swin")
    head = next(b for b in browser.find_elements("css selector", "#cells thead button") if b.text == "PSNR (dB)")
    head.click()
    choose(browser, "#down", "seed")
    browser.execute_script(
        "document.activeElement.blur(); scrollTo({top: 777, behavior: 'instant'}); window.old = true"
    )
    write_text(file, file.read_text().replace("<h1>s</h1>", "<h1>new</h1>"))
    js(browser, pause)
    assert until(lambda: js(browser, "window.old !== true && document.readyState === 'complete'"))
    assert until(lambda: one_text(browser, "h1") == "new")
    assert js(browser, "scrollY") == pytest.approx(777, abs=1)
    assert visible_cells(browser)[:4] == ["7", "6", "5", "4"]
    assert one_text(browser, "#heat-map th") == "seed \\ loss"
    js(browser, pause)
    browser.execute_script("window.old = true")
    time.sleep(1)
    assert js(browser, "window.old") is True
    browser.get("about:blank")


def one_text(driver, selector):
    return js(driver, "document.querySelector(arguments[0])?.textContent", selector)
