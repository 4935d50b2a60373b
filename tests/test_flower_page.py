"""Flower as a person sees it: in a real browser, and behind a real nginx with the shipped configuration."""

from __future__ import annotations

import base64
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

from soundmill.storage.lifecycle import State

from .ports import free_port
from .worker.running import PLUGINS, Stack, until

LOGIN = "soundmill:a secret for tests"
SHIPPED = Path(__file__).parent.parent / "docker" / "flower-proxy.conf"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Browser:
    """Chromium, whose pages may change until the moment they are read."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        scheme, _, rest = url.partition("://")
        user, _, password = LOGIN.partition(":")
        self.driver.get(f"{scheme}://{user}:{quote(password)}@{rest}")

    @property
    def text(self) -> str:
        return self.driver.find_element(By.TAG_NAME, "body").text

    def rows(self) -> dict[str, list[str]]:
        """The table of the tasks page: its cells, by the job's id."""
        script = (
            "return [...document.querySelectorAll('tbody tr')].map(r => [...r.cells].map(c => c.innerText))"
        )
        return {cells[1]: cells for cells in self.driver.execute_script(script) if len(cells) > 1}

    def await_text(self, url: str, word: str) -> None:
        """Open the page again and again until it shows a word."""
        until(lambda: self._shows(url, word), 60, lambda: f"no {word} in {self.text}")

    def _shows(self, url: str, word: str) -> bool:
        self.open(url)
        return word in self.text


def needed(program: str, package: str) -> str:
    """Where a program is; without it the test is skipped, or fails in CI."""
    found = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        stop = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        stop(f"{program} is not installed: apt-get install {package}")
    return found


def answer(
    url: str, *, method: str = "GET", login: str | None = LOGIN, origin: str | None = None
) -> tuple[int, str]:
    """Status and text of the answer to one request."""
    request = urllib.request.Request(url, method=method, data=b"" if method == "POST" else None)
    if login is not None:
        request.add_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
    if origin is not None:
        request.add_header("Origin", origin)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def answers(url: str) -> bool:
    try:
        return answer(f"{url}/healthcheck")[0] == 200
    except OSError:
        return False


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    settings = {"flower_port": free_port(), "flower_basic_auth": LOGIN}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(PLUGINS)
        with closing(Stack(folder, f"sqlite:///{folder}/soundmill.db", **settings)) as stack:
            stack.start("cpu:0", flower=True)
            yield stack


@pytest.fixture(scope="module")
def flower(stack: Stack) -> str:
    """The address of Flower itself."""
    url = f"http://127.0.0.1:{stack.settings.flower_port}"
    until(lambda: answers(url), 60, stack.words)
    return url


@pytest.fixture(scope="module")
def proxy(flower: str) -> Iterator[str]:
    """The address of nginx before Flower, run by nobody who could do harm."""
    nginx, port = needed("nginx", "nginx"), free_port()
    nobody = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
    shipped = SHIPPED.read_text().replace("http://flower:5555", flower)
    shipped = shipped.replace("listen 8080", f"listen 127.0.0.1:{port}")
    with tempfile.TemporaryDirectory(prefix="soundmill-nginx-", dir="/tmp") as folder:
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        places = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
        Path(folder, "nginx.conf").write_text(
            f"daemon off; master_process off; pid {folder}/pid; error_log stderr; events {{}}\n"
            f"http {{ access_log off;\n{places}{shipped} }}"
        )
        if nobody is not None:
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        process = subprocess.Popen(
            [nginx, "-c", f"{folder}/nginx.conf"],
            user=nobody and nobody.pw_uid,
            group=nobody and nobody.pw_gid,
            extra_groups=nobody and [],
            cwd="/",
        )
        url = f"http://127.0.0.1:{port}"
        try:
            until(lambda: process.poll() is not None or answers(url), 20)
            assert process.poll() is None
            yield url
        finally:
            process.terminate()
            process.wait(20)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    """A browser that has never been here: it knows no password yet."""
    options = webdriver.ChromeOptions()
    options.binary_location = needed("chromium", "chromium")
    words = """
        headless no-sandbox disable-gpu disable-quic disable-dev-shm-usage no-first-run
        disable-background-networking disable-component-update disable-sync window-size=1400,900
    """
    for word in [*words.split(), f"user-data-dir={tmp_path / 'profile'}"]:
        options.add_argument(f"--{word}")
    driver = webdriver.Chrome(options, Service(needed("chromedriver", "chromium-driver")))
    yield Browser(driver)
    driver.quit()


def test_the_tasks_page_shows_jobs_by_their_ids_and_none_of_their_words(
    stack: Stack, flower: str, browser: Browser
) -> None:
    done, refused = stack.submit()[0], stack.submit(what="refuse", text="my secret words")[0]
    stack.await_final([done, refused])

    browser.await_text(f"{flower}/task/{refused}", "bad_input")
    assert f"('{refused}',)" in browser.text
    assert "secret words" not in browser.driver.page_source
    browser.open(f"{flower}/tasks")
    until(lambda: {done, refused} <= browser.rows().keys(), 60, lambda: browser.text)

    name, _, state, _, runtime, worker = browser.rows()[done]
    card = str(stack.job(done).worker).partition("#")[0]
    assert (name, state, worker) == ("soundmill.drill", "SUCCESS", card)
    assert card == f"cpu-0@{socket.gethostname()}"
    assert float(runtime.removesuffix("ms").removesuffix("s")) >= 0
    assert browser.rows()[refused][2] == "FAILURE"


def test_the_workers_name_leads_to_the_page_of_its_card(stack: Stack, flower: str, browser: Browser) -> None:
    job = stack.submit()[0]
    stack.await_final([job])
    card = str(stack.job(job).worker).partition("#")[0]

    browser.open(f"{flower}/workers")
    until(lambda: browser.driver.find_elements(By.LINK_TEXT, card), 60, lambda: browser.text)
    browser.driver.find_element(By.LINK_TEXT, card).click()
    browser.await_text(f"{flower}/worker/{card}", "CardPool")

    assert browser.driver.find_element(By.TAG_NAME, "h1").text == card
    assert str(stack.cards()["cpu:0"].pid) in browser.text


@pytest.mark.parametrize("way", ["flower", "proxy"])
def test_terminate_cancels_a_running_job_and_a_retry_of_it_shows_as_success(
    stack: Stack, browser: Browser, way: str, request: pytest.FixtureRequest
) -> None:
    job = stack.submit(steps=300, step_s=0.05)[0]
    page = f"{request.getfixturevalue(way)}/task/{job}"
    # Right to the job's page, as by a link from a colleague: the browser has seen no page above it.
    browser.await_text(page, "Terminate")

    begun = time.monotonic()
    browser.driver.find_element(By.ID, "task-terminate").click()
    stack.await_state(job, State.CANCELLED, timeout_s=20)
    assert [attempt.outcome for attempt in stack.attempts(job)] == ["cancelled"]
    assert time.monotonic() - begun < 10
    browser.await_text(page, "REVOKED")

    retry = [sys.executable, "-m", "soundmill.producer", "jobs", "retry", job]
    subprocess.run(retry, env=stack.environment(), check=True, capture_output=True)
    browser.await_text(page, "STARTED")
    stack.await_final([job])
    assert stack.job(job).state == State.COMPLETED
    browser.await_text(page, "SUCCESS")


def test_behind_the_proxy_terminate_works_from_its_own_pages_only(stack: Stack, proxy: str) -> None:
    job = stack.submit(steps=4000)[0]
    until(lambda: stack.ran(job), 60, stack.words)
    revoke = f"{proxy}/api/task/revoke/{job}?terminate=true"

    assert answer(revoke, method="POST", login=None)[0] == 401
    assert answer(revoke, method="POST", origin="http://elsewhere.example")[0] == 403
    assert stack.job(job).state == State.EXECUTING
    assert answer(revoke, method="POST", origin=proxy)[0] == 200
    stack.await_state(job, State.CANCELLED)


@pytest.mark.parametrize("path", ["/", "/workers", "/tasks", "/broker", "/api/tasks", "/api/workers"])
def test_the_proxy_passes_pages_to_those_who_know_the_password(proxy: str, path: str) -> None:
    assert answer(proxy + path)[0] == 200
    assert answer(proxy + path, login=None)[0] == 401
    assert answer(proxy + path, login="soundmill:guess")[0] == 401


@pytest.mark.parametrize(
    "path", ["/metrics", "/metrics?x=/tasks", "//metrics", "/%6detrics", "/tasks/../metrics"]
)
def test_the_proxy_hides_the_metrics_however_they_are_spelled(flower: str, proxy: str, path: str) -> None:
    assert answer(f"{flower}/metrics", login=None)[0] == 200, "Flower asks for no password here"
    assert answer(proxy + path, login=None)[0] == 404
    assert answer(proxy + path)[0] == 404


@pytest.mark.parametrize(
    "call",
    [
        "task/apply/soundmill.drill", "task/async-apply/soundmill.drill", "task/send-task/soundmill.drill",
        "task/timeout/soundmill.drill", "task/rate-limit/soundmill.drill", "worker/shutdown/WORKER",
        "worker/pool/restart/WORKER", "worker/pool/shrink/WORKER", "worker/queue/cancel-consumer/WORKER",
        "task/send-task/../../../task/x",
    ],
)  # fmt: skip
def test_the_proxy_drops_what_makes_tasks_or_changes_workers(proxy: str, call: str) -> None:
    worker = f"cpu-0@{socket.gethostname()}"

    status, words = answer(f"{proxy}/api/{call.replace('WORKER', worker)}", method="POST")

    assert status == 404
    assert "nginx" in words, "it was Flower that answered"
