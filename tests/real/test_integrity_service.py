import hashlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from examples.integrity import service
from examples.integrity.service import MODES, running_service
from stagerun.http import (
    Client,
    HttpConnectionError,
    HttpError,
    HttpStatusError,
    HttpTimeout,
    open_client,
)

ROOT = Path(service.__file__).parents[2]
pytestmark = pytest.mark.real

Outcome = int | tuple[type[HttpError], str]  # a status, or an error and its phase


async def test_it_serves_true_records_page_by_page() -> None:
    async with running_service(entities=2) as address, open_client(address, total=10) as client:
        entities = (await client.get("/entities")).json()["entities"]
        assert len(entities) == 2
        for entity in entities:
            url = f"/entities/{entity['name']}/records"
            first = (await client.get(url)).json()
            pages = [first] + [
                (await client.get(url, {"page": page})).json() for page in range(1, first["pages"])
            ]
            records = [record for page in pages for record in page["records"]]
            assert len(records) == first["total"] == entity["records"] == entity["files"]
            hashed = [record for record in records if record["sha256"]]
            assert len(hashed) > 100
            for record in hashed[:20]:
                content = await trio.Path(record["path"]).read_bytes()
                assert len(content) == record["size"]
                assert hashlib.sha256(content).hexdigest() == record["sha256"]


async def test_more_records_than_files_means_the_same_files_again() -> None:
    async with (
        running_service(entities=1, records=10_000) as address,
        open_client(address, total=10) as client,
    ):
        [entity] = (await client.get("/entities")).json()["entities"]
        url = f"/entities/{entity['name']}/records"
        page = (await client.get(url, {"size": 10_000})).json()
        assert page["pages"] == 1
        assert page["total"] == len(page["records"]) == entity["records"] == 10_000
        files = entity["files"]
        assert page["records"][files : 2 * files] == page["records"][:files]
        assert len({record["path"] for record in page["records"]}) == files


async def test_the_chosen_pages_misbehave_and_no_other() -> None:
    wanted = {"hang": 2, "drip": 1, "busy": 2, "reset": 1}
    async with running_service(entities=3, seed=7, **wanted) as address, clients(address) as client:
        plan = {
            (name, page): mode
            for mode, pages in (await client[None].get("/plan")).json().items()
            for name, page in pages
        }
        assert {mode: list(plan.values()).count(mode) for mode in MODES} == wanted
        for entity in (await client[None].get("/entities")).json()["entities"]:
            for page in range(-(-entity["records"] // 250)):
                url = f"/entities/{entity['name']}/records?page={page}"
                mode = plan.get((entity["name"], page))
                assert await outcome(client[mode], url) == EXPECTED[mode]
                again = mode if mode in {"hang", "drip"} else None  # the others are well by now
                assert await outcome(client[again], url) == EXPECTED[again]


async def test_a_busy_page_says_for_how_long_and_stays_so_as_often_as_asked() -> None:
    async with (
        running_service(entities=1, records=250, busy=1, times=2, retry_after=3) as address,
        open_client(address, total=10) as client,
    ):
        page = await first_page(client)
        for _ in range(2):
            with pytest.raises(HttpStatusError) as caught:
                await client.get(page)
            assert (caught.value.status, caught.value.retry_after) == (503, 3.0)
        assert await outcome(client, page) == 200


async def test_a_seed_chooses_the_same_pages_again() -> None:
    async with (
        running_service(seed=1, hang=3) as one,
        running_service(seed=1, hang=3) as other,
        open_client(total=10) as client,
    ):
        plans = [(await client.get(f"{address}/plan")).json() for address in (one, other)]
    assert plans[0] == plans[1]
    assert len(plans[0]["hang"]) == 3


async def test_one_request_may_misbehave_on_request_every_time() -> None:
    async with running_service(entities=1) as address, clients(address) as client:
        page = await first_page(client[None])
        for mode in MODES * 2:
            assert await outcome(client[mode], f"{page}?misbehave={mode}") == EXPECTED[mode]


async def test_a_wrong_request_is_told_so() -> None:
    async with running_service(entities=1) as address, open_client(address, total=10) as client:
        page = await first_page(client)
        for url, status in {
            "/nothing": 404,
            "/entities/no-such-thing/records": 404,
            f"{page}?page=1000000": 404,
            f"{page}?page=-1": 404,
            f"{page}?page=x": 400,
            f"{page}?size=0": 400,
            f"{page}?misbehave=politely": 400,
        }.items():
            with pytest.raises(HttpStatusError) as caught:
                await client.get(url)
            assert caught.value.status == status
            assert json.loads(caught.value.content)["error"]


async def test_garbage_ends_the_connection_and_not_the_service() -> None:
    garbage = (b"\x00\xff\r\n\r\n", b"POST / HTTP/1.1\r\n\r\n", b"GET //[ HTTP/1.1\r\n\r\n")
    async with running_service(entities=1) as address, open_client(address, total=10) as client:
        for request, status in zip(garbage, (b"501", b"501", b"404"), strict=True):
            with trio.fail_after(10):
                async with await trio.open_tcp_stream(*host_and_port(address)) as stream:
                    await stream.send_all(request)
                    assert (await stream.receive_some()).startswith(b"HTTP/1.1 " + status)
        assert (await client.get("/entities")).status == 200


async def test_the_process_is_gone_after_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[trio.Process] = []
    open_process = trio.lowlevel.open_process

    async def remembered(*args: Any, **kwargs: Any) -> trio.Process:
        started.append(await open_process(*args, **kwargs))
        return started[-1]

    monkeypatch.setattr(trio.lowlevel, "open_process", remembered)
    with trio.move_on_after(10) as scope:
        async with running_service(entities=1):
            scope.cancel()
            await trio.lowlevel.checkpoint()
    [process] = started
    assert process.returncode is not None


async def test_the_service_dies_with_the_process_that_started_it() -> None:
    program = (
        "import sys, trio\n"
        "from examples.integrity.service import running_service\n"
        "async def main():\n"
        "    async with running_service(entities=1) as address:\n"
        "        print(address, flush=True)\n"
        "        await trio.sleep_forever()\n"
        "trio.run(main)\n"
    )
    parent = await trio.lowlevel.open_process(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert parent.stdout is not None
    with trio.fail_after(30):
        async with parent.stdout:
            address = (await parent.stdout.receive_some()).decode().strip()
            async with await trio.open_tcp_stream(*host_and_port(address)) as witness:
                parent.kill()
                await parent.wait()
                with suppress(trio.BrokenResourceError):  # reset is as dead as closed
                    assert await witness.receive_some() == b""
            with suppress(OSError):  # it is going: its listener may outlive its connections
                while True:
                    await (await trio.open_tcp_stream(*host_and_port(address))).aclose()


def test_more_misbehaviour_than_pages_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", service.__name__, "--entities", "1", "--hang", "100000"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 1
    assert "there are only" in done.stderr


EXPECTED: dict[str | None, Outcome] = {
    None: 200,
    "hang": (HttpTimeout, "read-header"),
    "drip": (HttpTimeout, "read-body"),
    "busy": (HttpStatusError, "read-body"),
    "reset": (HttpConnectionError, "read-body"),
}


@asynccontextmanager
async def clients(address: str) -> AsyncGenerator[dict[str | None, Client]]:
    """A client per expected outcome: impatient only where waiting is of no use."""
    async with (
        open_client(address, total=10) as patient,
        open_client(address, total=0.2) as impatient,
    ):
        yield {mode: impatient if mode in {"hang", "drip"} else patient for mode in EXPECTED}


async def first_page(client: Client) -> str:
    [entity] = (await client.get("/entities")).json()["entities"]
    return f"/entities/{entity['name']}/records"


async def outcome(client: Client, url: str) -> Outcome:
    try:
        return (await client.get(url)).status
    except HttpError as error:
        return type(error), error.phase


def host_and_port(address: str) -> tuple[str, int]:
    host, port = address.removeprefix("http://").split(":")
    return host, int(port)
