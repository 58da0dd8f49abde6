"""What the services of the examples share: a process of their own, and ways to misbehave."""

import json
import socket
import struct
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Final

import trio

__all__ = ["running", "send"]

ROOT: Final = Path(__file__).parent.parent


@asynccontextmanager
async def running(module: str, *arguments: str) -> AsyncGenerator[str]:
    """Run a service in a process of its own; its address is good inside the block.

    The module prints one line when it listens, {"address": ...}. It ends with the block, and by
    itself when this process dies: `--until-stdin-closes`.
    """
    command = [sys.executable, "-m", module, *arguments, "--until-stdin-closes"]
    process = await trio.lowlevel.open_process(command, stdin=PIPE, stdout=PIPE, cwd=ROOT)
    assert process.stdin is not None
    assert process.stdout is not None
    async with process.stdin, process.stdout:
        try:
            with trio.fail_after(60):
                line = b""
                while not line.endswith(b"\n"):
                    more = await process.stdout.receive_some()
                    if not more:
                        raise RuntimeError(f"{module} ended before it listened; see its stderr")
                    line += more
            yield json.loads(line)["address"]
        finally:
            with trio.CancelScope(shield=True):
                await _end(process)


async def _end(process: trio.Process) -> None:
    process.terminate()
    with trio.move_on_after(5):
        await process.wait()
    if process.returncode is None:
        process.kill()
        with trio.fail_after(5):
            await process.wait()


async def send(
    stream: trio.SocketStream, head: bytes, body: bytes, mode: str | None, drip_interval: float
) -> None:
    """Send an answer, or what `mode` makes of it: `hang`, `drip` or `reset`."""
    match mode:
        case "hang":
            while await stream.receive_some():  # until the client has had enough
                pass
        case "drip":
            await stream.send_all(head)
            for byte in body:
                await stream.send_all(bytes([byte]))
                await trio.sleep(drip_interval)
        case "reset":
            await stream.send_all(head + body[: len(body) // 2])
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await stream.aclose()
        case _:
            with trio.fail_after(60):
                await stream.send_all(head + body)
