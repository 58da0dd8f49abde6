# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
"""Secrets do not reach the disk, the log or the screen."""

import logging
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagerun import Pipeline, SettingError, open_runtime, stage
from stagerun.redaction import PUT, check, is_secret_name, redacted

CANARY = "hunter2-CANARY-4711"

SHAPES = [
    f"GET https://joe:{CANARY}@example.org/x failed",
    f"postgresql://joe:{CANARY}@db/x",
    f"Authorization: Bearer {CANARY}",
    f"headers={{'authorization': 'Basic {CANARY}'}}",
    f"Cookie: a=1; session={CANARY}",
    f"password={CANARY}",
    f"PASSWORD = '{CANARY}'",
    f'{{"api_key": "{CANARY}", "a": 1}}',
    f"https://example.org/?api-key={CANARY}&page=2",
    f"OPENAI_API_KEY={CANARY}",
    f"client_secret: {CANARY}",
    f"access_token='{CANARY}'",
    f"the bearer {CANARY} was refused",
    f"sk-proj-{CANARY}",
    f"ghp_{'a1' * 10}{CANARY.replace('-', '')}",
    f"-----BEGIN RSA PRIVATE KEY-----\n{CANARY.replace('-', '')}\n-----END RSA PRIVATE KEY-----",
]


@pytest.mark.parametrize("text", SHAPES)
def test_the_usual_shapes_are_taken_out(text) -> None:
    told = redacted(text)
    assert CANARY not in told
    assert CANARY.replace("-", "") not in told
    assert PUT in told


@pytest.mark.parametrize(
    "text",
    [
        "a callback of the cancellation token raised ValueError",
        "item 12 timed out after 30 s",
        "https://example.org/a:b?page=2&token_count",
        "basic authentication failed for user joe",
        "the bearer channel is closed",
        "secretary: none of the passengers passed: 12",
        "12:30:00 compass: north",
        "stage a/b: 3 of 4 items ok",
    ],
)
def test_what_is_no_secret_stays_as_it_is(text) -> None:
    assert redacted(text) == text


def test_what_stands_beside_a_secret_stays() -> None:
    told = redacted(f"GET https://joe:{CANARY}@example.org/x?token={CANARY}&page=2 gave 401")
    assert told == f"GET https://{PUT}@example.org/x?token={PUT}&page=2 gave 401"


@given(st.text(max_size=300))
def test_whatever_the_text_it_is_done_and_done_twice_is_the_same(text) -> None:
    once = redacted(text)
    assert redacted(once) == once


@pytest.mark.parametrize(
    "piece",
    ["a-", "password", "token:", "x://", "sk-", "eyJa.", "Bearer ", "_", "' ", "-----BEGIN "],
)
def test_no_text_makes_it_slow(piece) -> None:
    def seconds(length: int) -> float:
        text = (piece * length)[:length]
        began = time.process_time()
        redacted(text)
        return time.process_time() - began

    # Ten times the text takes about ten times the time, and not a hundred times.
    assert seconds(100_000) < 40 * max(seconds(10_000), 0.001)


def test_names_of_secrets_are_known() -> None:
    for name in ("password", "db_password", "API-KEY", "openai_api_key", "token", "client_secret"):
        assert is_secret_name(name)
    for name in ("passenger", "tokens_used", "monkey", "page", "secretary"):
        assert not is_secret_name(name)


def test_a_pattern_of_one_s_own_is_taken_out_too(monkeypatch) -> None:
    monkeypatch.setenv("STAGERUN_REDACT", r"patient \d+")
    assert redacted("patient 4711 is missing") == f"{PUT} is missing"


@pytest.mark.parametrize("given", ["(", "x*"])
def test_a_pattern_that_cannot_be_used_is_refused(given) -> None:
    with pytest.raises(SettingError, match="STAGERUN_REDACT"):
        check({"STAGERUN_REDACT": given})


async def test_no_secret_of_an_error_or_a_log_line_reaches_the_disk(tmp_path, caplog) -> None:
    @stage
    async def leak(number, ctx):
        ctx.log.warning("password=%s", CANARY)
        ctx.report(f"token={CANARY}", f"https://joe:{CANARY}@example.org")
        raise ValueError(f"Authorization: Bearer {CANARY}")

    with caplog.at_level(logging.INFO):
        async with open_runtime(tmp_path / "runs.db") as runtime:
            run = await runtime.start(Pipeline("leak", [leak]), [1, 2])
            result = await run.wait()
            document = await run.document()
            why = await run.why()
    assert CANARY not in f"{document}{why}{result}{caplog.text}"
    for file in tmp_path.rglob("*"):
        assert file.is_dir() or CANARY.encode() not in file.read_bytes(), file


async def test_what_is_shown_of_params_keeps_no_secret(tmp_path) -> None:
    seen = []

    @stage
    async def use(number, ctx):
        seen.append(ctx.params["api_key"])

    async with open_runtime(tmp_path / "runs.db") as runtime:
        params = {"api_key": CANARY, "nested": [{"password": CANARY}], "page": 1}
        run = await runtime.start(Pipeline("use", [use]), [1], params=params)
        await run.wait()
        document = await run.document()
    assert document["params"] == {"api_key": PUT, "nested": [{"password": PUT}], "page": 1}
    assert seen == [CANARY]
