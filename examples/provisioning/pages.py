"""What a page of HTML says: its title, its text, its links. Nothing but the standard library."""

import codecs
from collections.abc import Mapping
from email.message import Message
from html.parser import HTMLParser
from typing import Final
from urllib.parse import urldefrag, urljoin

from attrs import frozen

__all__ = ["Page", "is_page", "read_page"]

LONGEST_TEXT: Final = 20_000
LONGEST_TITLE: Final = 200
SILENT: Final = frozenset({"script", "style", "template", "svg", "iframe", "nav", "footer"})
APART: Final = frozenset({"p", "li", "br", "div", "h1", "h2", "h3", "h4", "tr", "td", "option"})


@frozen
class Page:
    """A page as people read it."""

    address: str
    title: str
    text: str


def is_page(headers: Mapping[str, str]) -> bool:
    """Whether an answer is HTML; one that does not say what it is is not."""
    return _content_type(headers).get_content_type() in {"text/html", "application/xhtml+xml"}


def read_page(address: str, headers: Mapping[str, str], content: bytes) -> tuple[Page, list[str]]:
    """Read a page, however badly it is written, and where it leads: any scheme, any host."""
    reader = _read(headers, content)
    text, title = (" ".join("".join(part).split()) for part in (reader.text, reader.title))
    page = Page(address, (title or text)[:LONGEST_TITLE], text[:LONGEST_TEXT])
    links: dict[str, None] = {}
    for link in reader.links:
        try:
            links[urldefrag(urljoin(address, link.strip())).url] = None
        except ValueError:  # somebody's typing error, such as http://[/
            continue
    return page, [*links]


def _read(headers: Mapping[str, str], content: bytes) -> "_Reader":
    charset = str(_content_type(headers).get_param("charset", "utf-8"))
    try:
        codecs.lookup(charset)
    except LookupError:
        charset = "utf-8"
    reader = _Reader()
    reader.feed(content.decode(charset, errors="replace").replace("\x00", ""))
    reader.close()
    return reader


def _content_type(headers: Mapping[str, str]) -> Message:
    message = Message()
    message["Content-Type"] = headers.get("content-type", "application/octet-stream")
    return message


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.title: list[str] = []
        self.text: list[str] = []
        self.links: list[str] = []
        self._silent = 0
        self._in_title = False

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._silent += tag in SILENT
        self._in_title = self._in_title or (tag == "title" and not self.title)
        if tag in APART:
            self.text.append(" ")
        if tag == "a":
            self.links += [value for name, value in attributes if name == "href" and value]

    def handle_endtag(self, tag: str) -> None:
        self._silent = max(0, self._silent - (tag in SILENT))
        self._in_title = self._in_title and tag != "title"

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title.append(data)
        elif not self._silent:
            self.text.append(data)
