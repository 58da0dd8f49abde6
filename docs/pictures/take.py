"""Take the pictures of the documentation: `python docs/pictures/take.py` (needs chromium)."""

import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from playwright.sync_api import sync_playwright

HERE = Path(__file__).parent
QUIET = "--no-first-run --disable-background-networking --disable-component-update --disable-sync"
SECONDS_INTO_THE_RUN = 7


def main() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as scratch:
        database = Path(scratch) / "runs.db"
        command = [
            "serve",
            f"{HERE / 'demo.py'}:pipeline",
            "--db",
            str(database),
            "--port",
            str(port),
        ]
        server = subprocess.Popen([sys.executable, "-m", "stagerun", *command])
        try:
            take(f"http://127.0.0.1:{port}/", database)
        finally:
            server.terminate()
            server.wait(30)


def take(address: str, database: Path) -> None:
    token = database.with_name("runs.db.token")
    while not token.exists():
        time.sleep(0.1)
    ask = urllib.request.Request(
        f"{address}runs",
        json.dumps({"pipeline": "crawl", "labels": {"project": "demo"}}).encode(),
        {
            "Content-Type": "application/json",
            "Authorization": f"Bearer {token.read_text().strip()}",
        },
    )
    with urllib.request.urlopen(ask, timeout=30) as answer:
        run = json.load(answer)["id"]
    time.sleep(SECONDS_INTO_THE_RUN)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", *QUIET.split()]
        )
        for scheme in ("light", "dark"):
            page = browser.new_page(
                viewport={"width": 1280, "height": 1000},
                color_scheme=scheme,
            )
            page.goto(f"{address}#/runs/{run}")
            page.locator("svg").first.wait_for()
            page.wait_for_timeout(1_500)
            page.screenshot(path=HERE / f"run-{scheme}.png")
        browser.close()


if __name__ == "__main__":
    main()
