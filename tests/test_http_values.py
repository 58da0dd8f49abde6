import copy
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagerun.http import (
    HttpError,
    HttpStatusError,
    HttpTimeout,
    HttpUrlError,
    Response,
    open_client,
    parse_retry_after,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        (" 120 ", 120.0),
        ("1.5", 1.5),
        ("-5", 0.0),
        ("Fri, 02 Jan 2026 03:05:05 GMT", 60.0),
        ("Friday, 02-Jan-26 03:05:05 GMT", 60.0),
        ("Fri Jan  2 03:05:05 2026", 60.0),
        ("Fri, 02 Jan 2026 05:05:05 +0200", 60.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        (None, None),
        ("", None),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("1e3", None),
        ("9" * 400, None),
        ("Fri, 02 Jan 99999999999999999999 03:05:05 GMT", None),
        ("Fri, 99 Jan 2026 03:05:05 GMT", None),
    ],
)
def test_retry_after_is_read_in_every_form(text: str | None, seconds: float | None) -> None:
    assert parse_retry_after(text, NOW) == seconds


@given(st.text(max_size=60) | st.from_regex(r"[A-Z][a-z]{2}, [0-9 :+\-]{1,40}", fullmatch=True))
def test_no_retry_after_header_breaks_the_reader(text: str) -> None:
    seconds = parse_retry_after(text, NOW)
    assert seconds is None or 0.0 <= seconds < float("inf")


@given(st.integers(0, 10**7))
def test_seconds_and_date_mean_the_same(seconds: int) -> None:
    date = format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)
    assert parse_retry_after(date, NOW) == parse_retry_after(str(seconds), NOW) == seconds


def test_an_error_can_be_copied_with_all_it_says() -> None:
    timeout = HttpTimeout("GET", "http://a/b", "read-body", None, limit=1.0, spent=1.2)
    for error in (timeout, HttpStatusError("GET", "http://a", "read-body", 3.0, 503, b"busy")):
        twin = copy.copy(error)
        assert isinstance(twin, type(error))
        assert str(twin) == str(error)
        assert twin.retry_after == error.retry_after


def test_the_messages_say_what_where_and_what_next() -> None:
    assert str(HttpTimeout("GET", "http://a/b", "read-body", None, limit=1, spent=1.23)) == (
        "GET http://a/b was given up after 1.2 s in read-body (limit 1 s): "
        "raise `total` if the peer is merely slow"
    )
    assert str(HttpStatusError("GET", "http://a", "read-body", 3.0, 503, b"")) == (
        "GET http://a answered 503 Service Unavailable, asking for 3 s of rest"
    )
    assert str(HttpStatusError("GET", "http://a", "read-body", None, 599, b"")) == (
        "GET http://a answered 599"
    )


@pytest.mark.parametrize("url", ["/only/a/path", "ftp://u:secret@host/x", "http://u:sec/ret@h/x"])
async def test_what_is_not_an_http_url_is_refused_without_its_secrets(url: str) -> None:
    async with open_client() as client:
        with pytest.raises(HttpUrlError) as caught:
            await client.get(f"{url}?token=secret")
    assert "sec" not in str(caught.value)
    assert isinstance(caught.value, HttpError)


@pytest.mark.parametrize("total", [0, -1, float("nan")])
async def test_a_total_that_bounds_nothing_is_refused(total: float) -> None:
    with pytest.raises(ValueError, match="total must be"):
        async with open_client(total=total):
            pass


async def test_a_negative_size_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="max_bytes must be"):
        async with open_client(max_bytes=-1):
            pass


async def test_a_malformed_base_url_is_refused() -> None:
    with pytest.raises(HttpUrlError):
        async with open_client("http://host:port"):
            pass


def test_a_body_that_is_not_json_says_what_it_is() -> None:
    page = Response("http://a/b", 200, {"content-type": "text/html"}, b"<html>")
    with pytest.raises(ValueError, match=r"http://a/b answered 200 without JSON \(text/html\)"):
        page.json()


def test_a_missing_httpx_names_the_extra() -> None:
    program = "import sys; sys.modules['httpx'] = None; import stagerun.http"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert "pip install 'stagerun[http]'" in done.stderr.splitlines()[-1]
