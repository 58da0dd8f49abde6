"""The network that goes away: what clients see of it."""

import json
import subprocess
import sys

import pytest
import trio

from examples.integrity.network import Network, running_network
from examples.integrity.service import running_service
from stagerun.http import HttpConnectionError, HttpTimeout, open_client
from tests.real.integrity_before import ROOT, until

pytestmark = pytest.mark.real


async def test_while_it_is_lost_nobody_hears_anything() -> None:
    async with running_service(entities=1) as site, running_network(site) as network:
        network.lose()
        with pytest.raises(HttpTimeout):
            await ask(network.address, total=0.3)
        await until(lambda: network.connections == 0)
        network.come_up()
        await ask(network.address)


async def test_a_connection_that_was_there_when_it_was_lost_stays_dead() -> None:
    async with (
        running_service(entities=1) as site,
        running_network(site) as network,
        open_client(network.address, total=2) as client,
    ):
        await client.get("/entities")  # the client keeps the connection
        network.lose()
        network.come_up()
        assert (network.connections, network.caught) == (1, 1)
        with pytest.raises(HttpTimeout):
            await client.get("/entities")
        await ask(network.address)


async def test_while_it_is_down_connections_are_reset() -> None:
    async with running_service(entities=1) as site, running_network(site) as network:
        async with await trio.open_tcp_stream("127.0.0.1", port_of(network)) as witness:
            await until(lambda: network.connections)
            network.go_down()
            with pytest.raises(trio.BrokenResourceError):
                await witness.receive_some()
        with pytest.raises(HttpConnectionError):
            await ask(network.address)
        network.come_up()
        await ask(network.address)


async def test_nobody_behind_it_is_a_connection_that_ends() -> None:
    async with running_network("http://127.0.0.1:1") as network:
        with pytest.raises(HttpConnectionError):
            await ask(network.address)


async def test_as_a_program_it_obeys_words_and_ends_with_its_input() -> None:
    command = [sys.executable, "-m", "examples.integrity.network", "--to"]
    async with running_service(entities=1) as site:
        network = await trio.lowlevel.open_process(
            [*command, site], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert network.stdin is not None
        assert network.stdout is not None
        with trio.fail_after(30):
            async with network.stdin, network.stdout:
                address = json.loads(await line(network.stdout))["address"]
                await ask(address)
                await network.stdin.send_all(b"down\n")
                assert b"0 of them caught" in await line(network.stdout)
                with pytest.raises(HttpConnectionError):
                    await ask(address)
            await network.wait()
    assert network.returncode == 0


async def ask(address: str, total: float = 10) -> None:
    async with open_client(address, total=total) as client:
        assert (await client.get("/entities")).status == 200


async def line(stream: trio.abc.ReceiveStream) -> bytes:
    got = b""
    while not got.endswith(b"\n"):
        got += await stream.receive_some()
    return got


def port_of(network: Network) -> int:
    return int(network.address.rpartition(":")[2])
