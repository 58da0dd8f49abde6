"""The dashboard in a real browser, against a real `stagerun serve`."""

import shutil
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.real.serving import COMMAND, LONGEST, Server, environment, serving

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from playwright.sync_api import Browser, expect, sync_playwright

from tests.real.browsing import PATIENCE, Tab

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
if CHROMIUM is None:
    pytest.skip("NO BROWSER: chromium is not installed", allow_module_level=True)

pytestmark = pytest.mark.real

EVIL = "<img src=x onerror=alert(1)>"
PIPELINES = """
    from pathlib import Path

    import trio
    from stagerun import Context, Pipeline, Schedule, stage

    EVIL = "<img src=x onerror=alert(1)>"
    HERE = Path(__file__).parent

    @stage(workers=2, deadline=600)
    async def step(n):
        while not (HERE / f"go{n}").exists():
            await trio.sleep(0.02)
        return n

    @stage
    async def check(n, ctx: Context):
        ctx.log.warning("looked at %s and said </script><script>alert(2)</script>", n)
        if not (HERE / "healed").exists() and n % 2 == 0:
            raise ValueError(f"{EVIL} is not well: {n}")
        return n

    @stage
    async def hostile(item, ctx: Context):
        ctx.report(message=EVIL, step=EVIL)
        ctx.log.error("%s", EVIL)
        raise ValueError(f"{EVIL}\\\\u2028\\\\x1b[31m {item}")

    steps = Pipeline("steps", [step, check], deadline=3600, grace=0.5)
    evil = Pipeline("evil", [hostile])
    schedules = [
        Schedule("hourly", steps, every=3600, items=[1]),
        Schedule("nightly", evil, cron="30 2 * * *", zone="Europe/Berlin", items=[EVIL]),
    ]
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    arguments = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
                 "--disable-background-networking", "--disable-component-update"]  # fmt: skip
    with sync_playwright() as driver:
        opened = driver.chromium.launch(
            executable_path=CHROMIUM, args=[*arguments, "--no-sandbox"], headless=True
        )
        yield opened
        opened.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "jobs.py").write_text(textwrap.dedent(PIPELINES))
    return tmp_path


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    with serving(folder, "jobs.py:steps", "jobs.py:evil") as server:
        yield server


@pytest.fixture
def tab(browser: Browser) -> Iterator[Tab]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    tab = Tab(context.new_page())
    expect.set_options(timeout=PATIENCE)
    yield tab
    context.close()
    assert tab.wrong == []


def let_go(folder: Path, *items: int) -> None:
    for item in items:
        (folder / f"go{item}").touch()


def open_dashboard(tab: Tab, server: Server, place: str = "") -> None:
    tab.page.goto(f"{server.url}#token={server.token}")
    expect(tab.page.locator(".strip")).to_be_visible()
    assert server.token not in tab.page.url, "the address forgets it"
    if place:
        tab.page.goto(f"{server.url}{place}")


def has_settled(tab: Tab, stage: str, text: str) -> None:
    row = tab.page.locator(".stage", has=tab.page.get_by_text(stage, exact=True))
    expect(row.locator(".stage-count")).to_contain_text(text)


def start(tab: Tab, pipeline: str, items: str, labels: str = "") -> str:
    """Start a run by the form; return its identifier once its page is shown."""
    tab.page.get_by_role("button", name="Start a run").click()
    dialog = tab.page.get_by_role("dialog")
    dialog.get_by_label("Pipeline").select_option(pipeline)
    dialog.locator("[name=items]").fill(items)
    dialog.locator("[name=labels]").fill(labels)
    dialog.get_by_role("button", name="Start", exact=True).click()
    tab.page.wait_for_url("**/#/runs/*")
    return tab.page.url.rpartition("/")[2]


def test_a_run_is_started_and_its_progress_is_seen_live_until_its_end(
    tab: Tab, server: Server, folder: Path
) -> None:
    (folder / "healed").touch()
    open_dashboard(tab, server)
    start(tab, "steps", "1\n2\n3\n4", "project=demo")
    tab.shows_run("running")
    expect(tab.page.locator("[data-connection]")).to_have_attribute("data-connection", "live")
    let_go(folder, 1)
    has_settled(tab, "check", "1")
    let_go(folder, 2, 3)
    has_settled(tab, "check", "3")
    let_go(folder, 4)
    tab.shows_run("succeeded")
    expect(tab.page.locator("[data-connection]")).to_have_attribute("data-connection", "ended")
    tab.page.get_by_role("link", name="Runs", exact=True).first.click()
    row = tab.page.locator(".rows .row")
    expect(row).to_have_count(1)
    expect(row).to_contain_text("steps")
    expect(row).to_contain_text("demo")


def test_a_run_is_cancelled_resumed_and_what_failed_is_repeated(
    tab: Tab, server: Server, folder: Path
) -> None:
    open_dashboard(tab, server)
    start(tab, "steps", "1\n2\n3")
    let_go(folder, 1, 2)
    has_settled(tab, "check", "2")
    tab.page.get_by_role("button", name="Cancel", exact=True).click()
    dialog = tab.page.get_by_role("dialog")
    dialog.locator("[name=reason]").fill("seen enough")
    dialog.get_by_role("button", name="Cancel the run").click()
    tab.shows_run("cancelled")
    expect(tab.page.locator(".reason")).to_contain_text("seen enough")
    expect(tab.page.get_by_role("button", name="Cancel", exact=True)).to_be_disabled()

    tab.page.get_by_role("button", name="Resume", exact=True).click()
    tab.shows_run("running")
    expect(tab.page.get_by_text("generation 2").first).to_be_visible()
    let_go(folder, 3)
    expect(tab.page.locator(".status-big")).not_to_contain_text("running")

    (folder / "healed").touch()
    tab.page.get_by_role("button", name="Resume 1 failed").click()
    tab.shows_run("succeeded")
    expect(tab.page.get_by_text("generation 3").first).to_be_visible()


def test_the_page_goes_on_when_the_server_was_started_again(tab: Tab, folder: Path) -> None:
    (folder / "healed").touch()
    (folder / "items").write_text("1\n2\n3\n")
    arguments = ["run", "jobs.py:steps", "--input", "items", "--db", "runs.db"]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    worker = subprocess.Popen([*COMMAND, *arguments], cwd=folder, env=environment(), **quiet)  # type: ignore[call-overload]  # the options of a dict
    with worker:
        assert b"started" in worker.stderr.readline()
        with serving(folder) as server:
            port = server.port
            (run,) = server.get("runs")["runs"]
            open_dashboard(tab, server, f"#/runs/{run['id']}")
            connection = tab.page.locator("[data-connection]")
            expect(connection).to_have_attribute("data-connection", "live")
            let_go(folder, 1)
            has_settled(tab, "check", "1")
            server.stop()
            expect(connection).to_have_attribute("data-connection", "reconnecting")
        let_go(folder, 2)
        with serving(folder, port=port):
            expect(connection).to_have_attribute("data-connection", "live")
            has_settled(tab, "check", "2")
            let_go(folder, 3)
            tab.shows_run("succeeded")
        worker.communicate(timeout=LONGEST)


def test_what_items_errors_and_names_hold_is_text_and_nothing_else(
    tab: Tab, server: Server
) -> None:
    open_dashboard(tab, server)
    body = {
        "pipeline": "evil",
        "items": [EVIL, "'\"><svg/onload=alert(3)>"],
        "labels": {EVIL: EVIL},
    }
    run = server.post("runs", body)["id"]
    expect(tab.page.locator(".rows .row")).to_contain_text(EVIL)
    tab.page.goto(f"{server.url}#/runs/{run}")
    tab.shows_run("failed")
    for place in (".head", ".errors", "table.items", ".log"):
        expect(tab.page.locator(place)).to_contain_text(EVIL)
    tab.page.goto(f"{server.url}#/?label={quote(f'{EVIL}:{EVIL}')}")
    expect(tab.page.locator(".chip.picked")).to_contain_text(EVIL)
    tab.page.goto(f"{server.url}#/pipelines/{quote(EVIL)}")
    expect(tab.page.locator("main")).to_contain_text(EVIL)
    assert tab.page.locator("img, main script").count() == 0


def test_everything_is_done_by_keys(tab: Tab, server: Server, folder: Path) -> None:
    (folder / "healed").touch()
    runs = [server.post("runs", {"pipeline": "steps", "items": [item]})["id"] for item in (1, 2)]
    open_dashboard(tab, server)
    expect(tab.page.locator(".rows .row")).to_have_count(2)
    keys = tab.page.keyboard
    keys.press("?")
    expect(tab.page.get_by_role("dialog")).to_be_visible()
    keys.press("Escape")
    expect(tab.page.get_by_role("dialog")).to_have_count(0)
    keys.press("/")
    expect(tab.page.locator("[data-filter]")).to_be_focused()
    keys.press("Escape")
    for place in range(2):
        keys.press("j")
        expect(tab.page.locator(".row-link").nth(place)).to_be_focused()
    keys.press("Enter")
    tab.page.wait_for_url(f"**/#/runs/{runs[0]}")
    tab.shows_run("running")
    keys.press("c")
    expect(tab.page.get_by_role("dialog")).to_be_visible()
    keys.press("Enter")
    tab.shows_run("cancelled")


def test_a_token_is_asked_for_once_it_is_needed(tab: Tab, server: Server) -> None:
    run = server.post("runs", {"pipeline": "steps", "items": [1]})["id"]
    tab.page.goto(f"{server.url}#/runs/{run}")
    tab.shows_run("running")
    for token, count in (("wrong" * 4, 1), (server.token, 0)):
        tab.page.get_by_role("button", name="Cancel", exact=True).click()
        tab.page.get_by_role("button", name="Cancel the run").click()
        field = tab.page.locator("[name=token]")
        field.fill(token)
        field.press("Enter")
        if count:
            expect(tab.page.locator(".toast.t-bad")).to_have_count(count)
    tab.shows_run("cancelled")


@pytest.mark.parametrize("width", [375, 1600])
def test_a_schedule_is_paused_resumed_and_triggered(tab: Tab, folder: Path, width: int) -> None:
    tab.page.set_viewport_size({"width": width, "height": 900})
    with serving(folder) as server:
        open_dashboard(tab, server, "#/schedules")
        expect(tab.page.locator("main")).to_contain_text("No schedules yet")
    with serving(folder, "jobs.py:schedules") as server:
        open_dashboard(tab, server, "#/schedules")
        row = tab.page.locator(".schedules .rows .row").first
        expect(row).to_contain_text("every 1 h")
        expect(row.locator(".schedule-next")).to_contain_text("59 min")
        expect(row).to_contain_text("none yet")
        row.get_by_role("button", name="Pause hourly").click()
        expect(row.locator(".row-status")).to_contain_text("paused")
        row.get_by_role("button", name="Run now hourly").click()
        expect(row.locator(".schedule-last")).to_contain_text("running")
        row.get_by_role("button", name="Run now hourly").click()
        expect(tab.page.locator(".toast.t-late")).to_contain_text("has not ended yet")
        expect(row.locator(".schedule-slots")).to_contain_text("1 skipped")
        row.get_by_role("button", name="Resume hourly").click()
        expect(row.locator(".row-status")).to_contain_text("waiting")
        tab.fits()
        row.get_by_role("link", name="hourly").click()
        expect(tab.page.locator(".panel-slots li")).to_have_count(2)
        expect(tab.page.locator(".panel-slots")).to_contain_text("asked for by 127.0.0.1")
        tab.fits()
        let_go(folder, 1)
        tab.page.locator(".panel-slots a").click()
        expect(tab.page.locator(".title-facts")).to_contain_text("hourly")


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_nothing_has_to_be_scrolled_to_the_side_on_a_telephone(
    browser: Browser, server: Server, folder: Path, scheme: str
) -> None:
    let_go(folder, *range(40))
    body = {"pipeline": "steps", "items": [*range(41)], "labels": {"project": "x" * 60}}
    run = server.post("runs", body)["id"]
    evil = server.post("runs", {"pipeline": "evil", "items": ["y" * 300]})["id"]
    context = browser.new_context(
        viewport={"width": 375, "height": 812},
        color_scheme=scheme,  # type: ignore[arg-type]  # one of its two words
        reduced_motion="reduce",
    )
    tab = Tab(context.new_page())
    expect.set_options(timeout=PATIENCE)
    open_dashboard(tab, server)
    expect(tab.page.locator(".rows .row")).to_have_count(2)
    tab.fits()
    for each in (run, evil):
        tab.page.goto(f"{server.url}#/runs/{each}")
        expect(tab.page.locator(".errors li").first).to_be_visible()
        expect(tab.page.locator("table.items")).to_be_visible()
        tab.fits()
    for place in ("#/pipelines", "#/pipelines/steps", "docs"):
        tab.page.goto(f"{server.url}{place}")
        expect(tab.page.locator("h1").first).to_be_visible()
        tab.fits()
    context.close()
    assert tab.wrong == []
