"""The documentation's site as make docs builds it: nothing broken, nothing fetched, readable at two widths."""

import re
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest
from browsing import fetched, headless, width
from conftest import ROOT

DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site; a page outside the navigation, a dead link or anchor ends the build."""
    pytest.importorskip("material", reason='mkdocs-material is not installed: pip install -e ".[docs]"')
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder)))
    return folder


class Page(HTMLParser):
    """What a page points to, (tag, address), and the places in it that can be pointed to."""

    def __init__(self, path):
        super().__init__()
        self.points, self.places = [], set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.places |= {given[key] for key in ("id", "name") if given.get(key)}
        self.points += [(tag, given[key]) for key in ("href", "src") if given.get(key)]


def test_no_link_or_picture_is_broken_and_nothing_is_fetched(site):
    pages = {
        path: Page(path) for path in site.glob("*.html") if path.name != "404.html"
    }  # whose links begin at the root
    assert len(pages) == len(list(DOCS.glob("*.md")))
    assert sum(tag == "img" for page in pages.values() for tag, _ in page.points) >= 5
    broken = []
    for path, page in pages.items():
        for tag, address in page.points:
            parts = urlsplit(address)
            if parts.scheme in ("http", "https") and tag == "a":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            found = not parts.scheme and not parts.netloc and target.is_file()
            if not found or (parts.fragment and unquote(parts.fragment) not in pages[target].places):
                broken.append(f"{path.name}: {tag} {address}")
    assert broken == []


def test_what_the_readme_points_to_is_there():
    readme = (ROOT / "README.md").read_text()
    links = re.findall(r"\]\(([^)#]+)\)", readme)
    assert [link for link in links if not (ROOT / link).is_file()] == []
    assert {f"docs/{page.name}" for page in DOCS.glob("*.md")} - set(links) <= {"docs/pictures.md"}
    assert len(readme.splitlines()) <= 60  # one screen


def test_the_gallery_is_small():
    assert sum(path.stat().st_size for path in (DOCS / "gallery").iterdir()) < 300_000


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with headless(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


@pytest.mark.parametrize("pixels", [1400, 420])
def test_every_page_fits_the_window(browser, site, pixels):
    width(browser, pixels)
    for path in sorted(site.glob("*.html")):
        if path.name == "404.html":
            continue
        browser.get(path.as_uri())
        wide = browser.execute_script("return document.documentElement.scrollWidth")
        blank = "return [...document.images].filter((i) => !i.complete || !i.naturalWidth).map((i) => i.src)"
        assert wide <= pixels, path.name
        assert browser.execute_script(blank) == []
    assert browser.get_log("browser") == []
    assert [url for url in fetched(browser) if not url.startswith(("file:", "data:"))] == []


def test_the_search_finds_from_the_disk(browser, site):
    from selenium.webdriver.support.ui import WebDriverWait

    width(browser, 1400)
    browser.get((site / "index.html").as_uri())
    field = WebDriverWait(browser, 10).until(lambda driver: driver.find_element("css selector", ".md-search__input"))
    WebDriverWait(browser, 10).until(lambda driver: field.is_displayed())
    field.click()
    field.send_keys("Wilcoxon")
    links = WebDriverWait(browser, 10).until(
        lambda driver: driver.find_elements("css selector", ".md-search-result__link")
    )
    assert any("trust.html" in link.get_attribute("href") for link in links)
    assert browser.get_log("browser") == []
    assert [url for url in fetched(browser) if not url.startswith(("file:", "data:"))] == []
