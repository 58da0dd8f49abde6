"""A small web site on the loopback interface, for those who have none at hand.

    python -m examples.provisioning.site
    python -m examples.provisioning.site --bad-certificate
    python -m examples.provisioning.site --mark hang

When it listens it prints one line, {"address": "http://127.0.0.1:PORT"}. It is the site of a boat
hire that does not exist: a few pages, one that robots.txt closes, one that is no page.

With `--bad-certificate` it speaks TLS, with a certificate that nobody has signed: made by the
openssl program at the start, forgotten at the end. Who looks at certificates does not come in.

With `--mark hang` the first page has [[hang]] in its text: the model server of these examples never
answers who asks it about that. examples/models/server.py tells what other marks do.
"""

import argparse
import json
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any, Final

import trio

from examples.loopback import running

PAGES: Final = {
    "/": """Tideline: kayaks and canoes by the estuary
        Tideline lends kayaks and canoes, teaches beginners to paddle, and guides tours through the
        estuary. The boathouse stands at the old harbour; it is open from April to October. Every
        boat comes with paddle, spray deck and buoyancy vest.""",
    "/boats": """Boats for hire
        The sea kayak Petrel is long and quick, made for open water and steady paddlers. The touring
        canoe Otter carries three people, or two with tents and stove. The short river kayak Wagtail
        turns on the spot and forgives mistakes. All hulls are polyethylene.""",
    "/courses": """Courses for beginners and improvers
        The first course takes one morning: balance, forward stroke, wet exit. The second one takes
        a weekend and adds bracing, rescue and reading currents. The navigation evening explains
        charts, compass, buoys and tidal streams. Groups have six learners at most.""",
    "/prices": """What it costs
        A kayak costs 18 for half a day and 30 for a whole one. A canoe costs 40 a day. The first
        course costs 45, the weekend 160, the navigation evening 15. Students and apprentices pay
        half. Deposits are returned when the boat comes back clean.""",
    "/tides": """Tides and weather
        Leave the slipway two hours before high water and return with the ebb. Above wind force five
        nobody is let out. Fog settles quickly behind the lighthouse: carry whistle, lamp and radio.
        The tide table hangs beside the harbour gate.""",
    "/find-us": """How to find us
        From the railway station follow the canal towpath for twenty minutes. The bus stops at the
        shipyard bridge. Cars park behind the sail loft. Bicycles are welcome in the boathouse,
        where showers, lockers and a kitchen are.""",
    "/staff/rota": """Rota
        Who opens the boathouse is nobody's business but ours.""",
}
"""Path to text; its first line is the title."""
LINKS: Final = (*PAGES, "/brochure.pdf", "/gone", "https://elsewhere.invalid/", "/boats#petrel")
ROBOTS: Final = "User-agent: *\nDisallow: /staff/\n"


@asynccontextmanager
async def running_site(*, bad_certificate: bool = False) -> AsyncGenerator[str]:
    """Run the site in a process of its own; its address is good inside the block."""
    arguments = ["--bad-certificate"] if bad_certificate else []
    async with running("examples.provisioning.site", *arguments) as address:
        yield address


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--port", type=int, default=0, help="0 lets the system choose")
    add("--bad-certificate", action="store_true", help="speak TLS, and be believed by nobody")
    add("--mark", help="a mark on the first page, by which the model server misbehaves")
    add("--until-stdin-closes", action="store_true", help="end with the process that started this")
    options = parser.parse_args()
    try:
        trio.run(_serve, options)
    except* KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except* OSError as group:
        sys.exit(f"cannot listen at port {options.port}: {group.exceptions[0]}")


async def _serve(options: argparse.Namespace) -> None:
    pages = dict(PAGES)
    if options.mark:
        pages["/"] += f" [[{options.mark}]]"
    talk = partial(_talk, pages)
    listen: Callable[..., Awaitable[Any]] = partial(trio.serve_tcp, talk)
    scheme = "http"
    if options.bad_certificate:
        listen = partial(trio.serve_ssl_over_tcp, talk, ssl_context=self_signed())
        scheme = "https"
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(listen, port=options.port, host="127.0.0.1"))
        listener = listeners[0]
        if options.bad_certificate:
            listener = listener.transport_listener
        port = listener.socket.getsockname()[1]
        print(json.dumps({"address": f"{scheme}://127.0.0.1:{port}"}), flush=True)
        if options.until_stdin_closes:
            async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as stdin:
                while await stdin.receive_some():
                    pass
            nursery.cancel_scope.cancel()


def self_signed() -> ssl.SSLContext:
    """Make a certificate that nobody vouches for, and return a server's side of TLS with it."""
    with TemporaryDirectory() as folder:
        key, certificate = f"{folder}/key.pem", f"{folder}/certificate.pem"
        command = ["openssl", "req", "-x509", "-nodes", "-days", "1", "-subj", "/CN=127.0.0.1"]
        command += ["-newkey", "rsa:2048", "-keyout", key, "-out", certificate]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
        except FileNotFoundError:
            sys.exit("--bad-certificate needs the program openssl, which is not installed")
        except subprocess.CalledProcessError as error:
            sys.exit(f"openssl could not make a certificate: {error.stderr}")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        return context


async def _talk(pages: Mapping[str, str], stream: trio.abc.Stream) -> None:
    """Answer one request; the connection ends with it."""
    # Who left, fell silent, or does not like the certificate is not there to be told.
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
        with trio.fail_after(30):
            head = b""
            while b"\r\n\r\n" not in head and len(head) < 2**16:
                more = await stream.receive_some(4096)
                if not more:
                    return
                head += more
            _, path, *_ = [*head.decode("latin-1").split(" ", 2), ""]
            status, kind, body = _answer(pages, path.partition("?")[0])
            start = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
            await stream.send_all(f"{start}Connection: close\r\n\r\n".encode() + body)


def _answer(pages: Mapping[str, str], path: str) -> tuple[str, str, bytes]:
    match path:
        case "/robots.txt":
            return "200 OK", "text/plain", ROBOTS.encode()
        case "/brochure.pdf":
            return "200 OK", "application/pdf", b"%PDF-1.7 of a sort"
        case _ if path in pages:
            return "200 OK", "text/html; charset=utf-8", _page(pages[path]).encode()
    return "404 Not Found", "text/html; charset=utf-8", b"<title>Not here</title>"


def _page(content: str) -> str:
    title, _, text = content.partition("\n")
    links = "".join(f'<li><a href="{link}">{link}</a></li>' for link in LINKS)
    return (
        f"<!doctype html><html><head><title>{title}</title><style>p {{}}</style></head><body>"
        f"<nav><ul>{links}</ul></nav><main><h1>{title}</h1><p>{text}</p></main></body></html>"
    )


if __name__ == "__main__":
    main()
