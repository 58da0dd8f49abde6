"""``stagerun serve``: pipelines, their API and the dashboard, at an address of this machine."""

import errno
import ipaddress
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final, NoReturn
from urllib.parse import quote

from rich.text import Text

from stagerun.cli.exits import CANCELLED, INTERRUPTED, SUCCEEDED
from stagerun.cli.load import load_alerts, load_served
from stagerun.cli.terminal import closed_pipes_ignored, console, plain, say
from stagerun.engine.alerting import LAST_LOOK
from stagerun.engine.unwrap import unwrapped
from stagerun.errors import UsageError
from stagerun.model.alert import Alerts
from stagerun.model.pipeline import Pipeline
from stagerun.model.schedule import Schedule
from stagerun.rules.settings import apply_settings

if TYPE_CHECKING:  # it comes with an extra, and that it is missing shall be said in a sentence
    from stagerun.web.service import Service

__all__ = ["serve_targets"]

_STREAMS: Final = 1
"""Seconds that open connections get for their end; streams take less by themselves."""
_PATIENCE: Final = 9.0
"""Seconds beyond the runs' grace after which a blocked event loop no longer keeps the command."""
_PORTS: Final = 50
"""Ports that are tried to name one that is free."""
_TOKEN: Final = re.compile(r"[!-~]{16,}")
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


def serve_targets(
    targets: Sequence[str],
    *,
    database: Path,
    alerts: str | None,
    host: str,
    port: int,
    token: str | None,
    allowed: Sequence[str],
) -> int:
    """Serve until SIGINT or SIGTERM; return the exit status.

    Raises:
        UsageError: A target, the address or the token will not do; nothing was opened.
        PolicyError: A setting in the environment is wrong.
        StoreError: The database cannot be used.
    """
    address = _address(host, port)
    _check_token(address, token)
    pipelines, schedules = load_served(targets)
    told = None if alerts is None else load_alerts(alerts)
    settled = [apply_settings(pipeline, os.environ) for pipeline in pipelines]
    with closing(_listener(address, host)) as listener:
        service = _service(
            database,
            pipelines=pipelines,
            schedules=schedules,
            alerts=told,
            token=token,
            hosts=_names(address, allowed),
        )
        url = f"http://{_shown(address, allowed)}:{listener.getsockname()[1]}/"

        def tell() -> None:
            with closed_pipes_ignored(sys.stdout):
                _tell(url, service, given=token is not None)

        grace = max((pipeline.grace for pipeline in settled), default=0.0)
        patience = grace + _PATIENCE + (0.0 if told is None else LAST_LOOK)
        _serve(service, listener, tell, patience=patience)
    return SUCCEEDED


# -- the address --------------------------------------------------------------------------------

_Address = tuple[socket.AddressFamily, str, int]


def _address(host: str, port: int) -> _Address:
    """Find the address to listen at: of a name's several ones the first of IPv4."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--host {host!r} is no address of this machine: {error}") from error
    family, *_, place = min(found, key=lambda each: each[0] is not socket.AF_INET)
    return family, str(place[0]), port


def _listener(address: _Address, host: str) -> socket.socket:
    """Listen at once: whoever comes before all is ready waits a moment, and is answered."""
    family, ip, port = address
    try:
        return _bound(family, ip, port)
    except PermissionError as error:
        raise UsageError(
            f"port {port} is for root alone: take another one, for example --port 8000"
        ) from error
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise UsageError(f"cannot listen at --host {host!r}: {error.strerror}") from error
        free = _free_port(family, ip, port)
        hint = "" if free is None else f"; --port {free} is free"
        raise UsageError(f"port {port} of {ip} is taken by another program{hint}") from error


def _bound(family: socket.AddressFamily, ip: str, port: int) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((ip, port))
        listener.listen(socket.SOMAXCONN)
    except BaseException:
        listener.close()
        raise
    return listener


def _free_port(family: socket.AddressFamily, ip: str, taken: int) -> int | None:
    for port in range(taken + 1, min(taken + 1 + _PORTS, 2**16)):
        with suppress(OSError):
            _bound(family, ip, port).close()
            return port
    return None


# -- who may come in ----------------------------------------------------------------------------


def _check_token(address: _Address, token: str | None) -> None:
    if token is not None and not _TOKEN.fullmatch(token):
        raise UsageError("the token must have 16 visible ASCII characters at least, and no spaces")
    if token is None and not _ip(address).is_loopback:
        raise UsageError(
            f"{address[1]} can be reached from other machines, so it needs a token:"
            " set STAGERUN_TOKEN (or --token), or stay with --host 127.0.0.1"
        )


def _names(address: _Address, allowed: Sequence[str]) -> tuple[str, ...]:
    """Return the names under which requests may ask for this server, beside the machine's own."""
    return (*allowed,) if _ip(address).is_unspecified else (_in_url(address), *allowed)


def _shown(address: _Address, allowed: Sequence[str]) -> str:
    """Return the name under which people find it."""
    return [*allowed, "127.0.0.1"][0] if _ip(address).is_unspecified else _in_url(address)


def _ip(address: _Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_address(address[1].partition("%")[0])


def _in_url(address: _Address) -> str:
    return f"[{address[1]}]" if address[0] is socket.AF_INET6 else address[1]


# -- what is served -----------------------------------------------------------------------------


def _service(
    database: Path,
    *,
    pipelines: Sequence[Pipeline],
    schedules: Sequence[Schedule],
    alerts: Alerts | None,
    token: str | None,
    hosts: Sequence[str],
) -> "Service":
    try:
        import uvicorn  # noqa: F401, PLC0415 - it comes with an extra that may be missing

        from stagerun.web.service import Service  # noqa: PLC0415 - likewise
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("stagerun"):
            raise
        raise UsageError(f"serve needs {error.name}: pip install 'stagerun[web]'") from error
    return Service(
        database, pipelines=pipelines, schedules=schedules, alerts=alerts, token=token, hosts=hosts
    )


def _tell(url: str, service: "Service", *, given: bool) -> None:
    """Say where it is. The token goes to a person's screen, and not into a file or a journal."""
    screen = console()
    person = sys.stdout.isatty()
    link = f"{url}#token={quote(service.token, safe='')}" if person else url
    say(screen, Text.assemble("stagerun is at ", (link, "bold cyan")))
    names = ", ".join(service.pipelines)
    facts = {
        "pipelines": names or "none to start: runs can be looked at and cancelled",
        "schedules": ", ".join(schedule.name for schedule in service.schedules) or None,
        "database": str(service.database),
        "token": None if person or given else f"in {service.database}.token",
    }
    for name, fact in facts.items():
        if fact is not None:
            say(screen, Text.assemble((f"{name:<11}", "dim"), plain(fact)))
    if person:
        say(screen, "Ctrl-C shuts down", "dim")
    sys.stdout.flush()


# -- from the first to the last request ---------------------------------------------------------


def _serve(
    service: "Service", listener: socket.socket, tell: Callable[[], None], *, patience: float
) -> None:
    import uvicorn  # noqa: PLC0415 - it was there a moment ago

    leaving = _Leaving(patience)

    class Server(uvicorn.Server):
        """uvicorn, between the service's begin and end: an error of its begin is our caller's."""

        async def serve(self, sockets: list[socket.socket] | None = None) -> None:
            async with service.opened():
                if not leaving.asked:
                    tell()
                    await super().serve(sockets)

        async def on_tick(self, counter: int) -> bool:
            return await super().on_tick(counter) or leaving.asked

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield  # ours are heard from the service's begin to its end, and not raised once more

    config = uvicorn.Config(
        service.app,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # who asks is judged by the connection, and by the headers themselves
        timeout_graceful_shutdown=_STREAMS,
        ws="none",
    )
    with leaving.heard(), unwrapped():
        Server(config).run(sockets=[listener])


class _Leaving:
    """What signals ask for: the first one shuts down, a second SIGINT leaves at once.

    The handlers are Python's own, and a thread of its own leaves when the event loop cannot.
    """

    def __init__(self, patience: float) -> None:
        self.asked = False
        self._patience = patience
        self._asked, self._over = threading.Event(), threading.Event()

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Listen until the block is left."""
        threading.Thread(target=self._guard, name="stagerun-signals", daemon=True).start()
        before = {number: signal.signal(number, self._hear) for number in _SIGNALS}
        try:
            yield
        finally:
            self._over.set()
            self._asked.set()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            self._force(CANCELLED)
        again, self.asked = self.asked, True
        self._asked.set()
        if not again:
            _write("shutting down; Ctrl-C again leaves at once")

    def _guard(self) -> None:
        self._asked.wait()
        if not self._over.wait(self._patience):
            _write("a stage does not let the program end: left without an ending")
            self._force(INTERRUPTED)

    def _force(self, status: int) -> NoReturn:
        os._exit(status)


def _write(sentence: str) -> None:
    with suppress(OSError):
        os.write(2, f"stagerun: {sentence}\n".encode())
