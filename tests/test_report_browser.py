"""The report's page in a real browser: what moves, sorts, zooms and draws, and that nothing is fetched."""

import json
import shutil
import time

import pytest
import report_folders as build

from datamodules.files import write_text
from experiments.report import folders, page


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Headless Chromium, which keeps a log of its console and of every request."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("chromium or chromedriver is not installed")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for switch in ("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync",
                   "disable-background-networking", "disable-component-update", "window-size=1280,900",
                   f"user-data-dir={tmp_path_factory.mktemp('chromium')}"):  # fmt: skip
        options.add_argument(f"--{switch}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


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
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    fetched = [request["request"]["url"] for request in asked if request["documentURL"].startswith("file:")]
    assert any(url.endswith("report.html") for url in fetched)
    assert [url[:60] for url in fetched if not url.startswith(("data:", "file:"))] == []


def width(driver, pixels):
    facts = {"width": pixels, "height": 844, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", facts)


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
