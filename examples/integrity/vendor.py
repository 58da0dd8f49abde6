"""A client as vendors ship it: synchronous, tries nothing twice, and knows no timeout."""

import json
from contextlib import closing
from http import HTTPStatus
from http.client import HTTPConnection, HTTPSConnection
from typing import Any, Final
from urllib.parse import quote, urlsplit

PAGE_SIZE: Final = 250
BUSY: Final = {429, 502, 503, 504}


class SiteError(Exception):
    """The site answered, but not with what it was asked for."""


class BusyError(SiteError):
    """It may do so later: after `retry_after` seconds, if it has said when."""

    def __init__(self, text: str, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.retry_after = retry_after


def list_entities(address: str) -> list[dict[str, Any]]:
    entities: list[dict[str, Any]] = get(f"{address}/entities")["entities"]
    return entities


def read_page(address: str, entity: str, number: int) -> dict[str, Any]:
    place = f"{address}/entities/{quote(entity, safe='')}/records"
    page: dict[str, Any] = get(f"{place}?page={number}&size={PAGE_SIZE}")
    return page


def get(url: str) -> Any:
    """Return the JSON document at *url*. It may take for ever: no wait in here has an end."""
    parts = urlsplit(url)
    connect = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    with closing(connect(parts.netloc)) as connection:
        connection.request("GET", parts._replace(scheme="", netloc="").geturl())
        answer = connection.getresponse()
        content = answer.read()
    told = f"{url}: {answer.status} {answer.reason}"
    if answer.status in BUSY:
        after = answer.headers["Retry-After"] or ""
        raise BusyError(told, float(after) if after.isdecimal() else None)
    if answer.status != HTTPStatus.OK:
        raise SiteError(told)
    return json.loads(content)
