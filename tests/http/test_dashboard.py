"""The page of the dashboard, as it is served: what it loads is all here, and holds wherever it is mounted."""

from __future__ import annotations

import configparser
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from flask.testing import FlaskClient

import jobmanager.http
from jobmanager.core.states import ATTENDED, Status, allowed

STATIC = Path(jobmanager.http.__file__).parent / "static"
SCRIPTS = sorted((STATIC / "dashboard").glob("*.js"))


class Page(HTMLParser):
    """What a page loads and links to, what is written into it, and the attributes of its body."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.inline: list[str] = []
        self.body: dict[str, str] = {}
        self._is_in: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.addresses += [given[name] for name in ("src", "href") if name in given]
        self.inline += [name for name in given if name.startswith("on") or name == "style"]
        self._is_in = tag
        if tag == "body":
            self.body = given

    def handle_data(self, data: str) -> None:
        if self._is_in in ("script", "style") and data.strip():
            self.inline.append(data)


@pytest.fixture(scope="module")
def page(quiet: FlaskClient) -> Page:
    return Page(quiet.get("/").text)


def test_who_comes_without_an_address_sees_the_dashboard(quiet: FlaskClient) -> None:
    answer = quiet.get("/")

    assert answer.status_code == 200
    assert answer.content_type == "text/html; charset=utf-8"
    assert "<main" in answer.text


def test_its_head_alone_can_be_asked_for(quiet: FlaskClient) -> None:
    whole, head = quiet.get("/"), quiet.head("/")

    assert (head.status_code, head.data) == (200, b"")
    assert head.headers["ETag"] == whole.headers["ETag"]


@pytest.mark.parametrize("path", ["/", "/static/dashboard/app.js", "/static/dashboard/dashboard.css"])
def test_a_browser_keeps_it_and_asks_each_time_whether_it_is_still_so(quiet: FlaskClient, path: str) -> None:
    with quiet.get(path, buffered=True) as first:
        etag, caching = first.headers["ETag"], first.headers["Cache-Control"]
    with quiet.get(path, headers={"If-None-Match": etag}, buffered=True) as again:
        assert (again.status_code, again.data) == (304, b"")
    assert caching == "no-cache"


@pytest.mark.parametrize("path", ["/static/dashboard/app.js", "/swagger-ui/swagger-ui.css"])
def test_a_file_is_served_by_one_range_and_whole_for_several(quiet: FlaskClient, path: str) -> None:
    with quiet.get(path, buffered=True) as answer:
        whole = answer.data
    with quiet.get(path, headers={"Range": "bytes=0-3"}, buffered=True) as answer:
        assert (answer.status_code, answer.data) == (206, whole[:4])
    with quiet.get(path, headers={"Range": "bytes=0-3,5-6"}, buffered=True) as answer:
        assert (answer.status_code, answer.data) == (200, whole)


def test_what_it_loads_and_links_to_is_relative_and_there(quiet: FlaskClient, page: Page) -> None:
    assert "apidocs/" in page.addresses
    assert len(page.addresses) > 5
    for address in page.addresses:
        assert re.match(r"[\w#?]", address), address
        with quiet.get("/" + address.partition("#")[0], buffered=True) as answer:
            assert answer.status_code == 200, address


def test_no_script_or_style_is_written_into_it(page: Page) -> None:
    assert page.inline == []


def test_the_page_lists_the_actions_each_status_allows_and_the_statuses_that_have_an_owner(page: Page) -> None:
    assert json.loads(page.body["data-life"]) == {status: allowed(status) for status in Status}
    assert set(json.loads(page.body["data-attended"])) == ATTENDED


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_loads_nothing_but_its_neighbours_and_reads_nothing_as_html(script: Path) -> None:
    text = script.read_text(encoding="utf-8")

    for name in re.findall(r'(?:from|import) "([^"]+)"', text):
        assert (script.parent / name).is_file(), name
    assert not re.search(r"https?://|innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|DOMParser", text)


def test_every_script_is_loaded_by_the_page(page: Page) -> None:
    seen: set[str] = set()
    left = [address.rpartition("/")[2] for address in page.addresses if address.endswith(".js")]
    while left:
        name = left.pop()
        if name not in seen:
            seen.add(name)
            text = (STATIC / "dashboard" / name).read_text(encoding="utf-8")
            left += re.findall(r'from "\./([^"]+)"', text)

    assert seen == {path.name for path in SCRIPTS}


def test_every_file_of_the_pages_is_installed_with_the_package() -> None:
    config = configparser.ConfigParser()
    config.read(Path(__file__).parents[2] / "setup.cfg", encoding="utf-8")
    patterns = config["options.package_data"]["jobmanager.http"].split(",")
    root = STATIC.parent

    installed = {path for pattern in patterns for path in root.glob(pattern.strip())}

    wanted = {path for folder in ("static", "templates") for path in (root / folder).rglob("*") if path.is_file()}
    assert len(wanted) > 15
    assert wanted <= installed
