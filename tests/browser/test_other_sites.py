"""Pages of other sites, in a real browser: they can link to the service, and do nothing else.

The browser resolves every .example and .lan name to this machine, as a hostile DNS server would.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from gunicorn_server import Server, until
from playwright.sync_api import Browser, Page, expect
from seen import press, row, status_of, submit_to

PAGES = ["localhost", "127.0.0.1", "[::1]"]


@pytest.fixture(scope="module")
def deceived(launch: Callable[..., Browser]) -> Browser:
    """Return a browser that resolves the names of other sites to this machine."""
    return launch("--host-resolver-rules=MAP *.example 127.0.0.1, MAP *.lan 127.0.0.1")


@pytest.fixture
def page(deceived: Browser) -> Iterator[Page]:
    context = deceived.new_context()
    context.set_default_timeout(30_000)
    yield context.new_page()
    context.close()


@pytest.fixture
def evil() -> Iterator[str]:
    """Return the address of an empty page of another site."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!DOCTYPE html><title>Evil</title>")

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://evil.example:{server.server_port}/"
        server.shutdown()
        thread.join()


def running_job(server: Server) -> str:
    job_id = submit_to(server, {"steps": 100_000, "seconds": 0.02})
    server.until_status("running", job_id)
    return job_id


def refused(server: Server) -> int:
    """Return how many requests the service has refused with 403. The browser hides the answers from other sites."""
    counts = re.findall(r'^jobmanager_http_request_seconds_count{.*status="403".*} (\S+)$', metrics_of(server), re.M)
    return int(sum(map(float, counts)))


def metrics_of(server: Server) -> str:
    return server.client.get("/metrics").text


def is_refused(page: Page, server: Server, address: str, script: str) -> bool:
    """Send the request from the page. Waits until the service has refused it, and returns True."""
    before = refused(server)
    with page.expect_request(lambda request: request.url == address):
        page.evaluate(script, address)
    return until(lambda: refused(server) == before + 1, address)


FORM = """address => {
    const form = document.createElement("form");
    Object.assign(form, {method: "post", action: address, enctype: "text/plain"});
    const field = document.createElement("input");
    Object.assign(field, {name: '{"all": true, "reason": "', value: '"}'});
    form.append(field);
    document.body.append(form);
    form.submit();
}"""
IMAGE = "address => { const image = new Image(); document.body.append(image); image.src = address; }"
IMAGE_WITHOUT_REFERER = IMAGE.replace("image.src", 'image.referrerPolicy = "no-referrer"; image.src')
LOAD = 'address => { fetch(address, {mode: "no-cors"}).catch(() => {}); }'
POST = 'address => { fetch(address, {method: "POST", mode: "no-cors", body: "{}"}).catch(() => {}); }'


def test_dns_rebinding_cannot_list_or_stop_jobs(page: Page, start: Callable[..., Server]) -> None:
    server = start()
    job_id = running_job(server)
    # This page itself is refused, too, but scripts that run in it have the origin of the hostile name.
    page.goto(f"http://rebind.example:{server.port}/health/live")

    statuses = page.evaluate(
        """async () => {
            const stop = {method: "POST", headers: {"Content-Type": "application/json"}, body: '{"all": true}'};
            const answers = [await fetch("/jobs"), await fetch("/jobs/stop", stop), await fetch("/")];
            return answers.map(answer => answer.status);
        }"""
    )

    assert statuses == [421, 421, 421]
    assert server.status(job_id) == "running"
    assert "was refused with 421" in server.log()


@pytest.mark.parametrize("host", ["127.0.0.1", "jobs.lan"])
def test_a_page_of_another_site_cannot_change_jobs(
    page: Page, start: Callable[..., Server], evil: str, host: str
) -> None:
    # Browsers send no Sec-Fetch-Site to jobs.lan: http:// is trustworthy for local addresses only.
    server = start(INSECURE=int(host == "jobs.lan"))
    job_id = running_job(server)
    service = f"http://{host}:{server.port}"
    asked = [
        (f"{service}/stop/{job_id}", IMAGE),
        (f"{service}/halt/{job_id}", IMAGE_WITHOUT_REFERER),
        (f"{service}/jobs/stop", POST),
        (f"{service}/jobs/{job_id}/stop", FORM),
        (f"{service}/jobs/stop", FORM),
    ]

    for address, script in asked:
        page.goto(evil)
        assert is_refused(page, server, address, script), (address, script)
        if script == FORM:
            page.wait_for_url(address)

    assert server.status(job_id) == "running"
    assert [change["action"] for change in server.changes(job_id)] == ["submit", "claim"]


def test_another_site_can_link_to_the_service_but_not_load_from_it(
    page: Page, start: Callable[..., Server], evil: str
) -> None:
    server = start()
    page.goto(evil)

    for path in ("/jobs?label=a:b", "/events", "/static/apidocs.js"):
        assert is_refused(page, server, f"{server.url}{path}", LOAD), path
    for path, shown in (("/", "main"), ("/apidocs/", "#swagger-ui .opblock")):
        page.goto(evil)
        page.evaluate("address => { location.href = address; }", f"{server.url}{path}")
        page.wait_for_url(f"{server.url}{path}")
        expect(page.locator(shown).first).to_be_visible()


@pytest.mark.parametrize("host", [*PAGES, "jobs.lan"])
def test_the_dashboard_and_the_api_docs_work_under_every_name_of_the_service(
    page: Page, start: Callable[..., Server], host: str
) -> None:
    # Browsers send no Sec-Fetch-Site to jobs.lan: the service has to rely on Origin and Referer.
    server = start(**({"INSECURE": 1, "HOSTS": "jobs.lan"} if host == "jobs.lan" else {}))
    port = server.port
    if host == "[::1]":
        server.restart(f"--bind=127.0.0.1:{port}", f"--bind=[::1]:{port}")
    job_id = running_job(server)

    page.goto(f"http://{host}:{port}/")
    press(row(page, job_id), "Halt")
    expect(status_of(row(page, job_id))).to_contain_text("halted")
    page.goto(f"http://{host}:{port}/apidocs/")
    expect(page.locator(".opblock").first).to_be_visible()
    resumed = page.evaluate("id => fetch(`/resume/${id}`).then(answer => answer.status)", job_id)

    assert resumed == 200
    server.until_status("running", job_id)
