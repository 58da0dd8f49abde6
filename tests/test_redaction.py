# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
"""Secrets do not reach the disk, the log or the screen."""

import json
import logging
import subprocess
import sys
import threading
import time
from contextlib import asynccontextmanager

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from stagerun import CancellationToken, Pipeline, Restart, SettingError, open_runtime, stage
from stagerun.redaction import PUT, check, is_secret_name, own, redacted

CANARY = "hunter2-CANARY-4711"
PLAIN = CANARY.replace("-", "")

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
    f"ghp_{'a1' * 10}{PLAIN}",
    f"github_pat_{'a1' * 10}{PLAIN}",
    f"Stripe's key sk_live_{PLAIN} was refused",
    f"rk_test_{PLAIN}",
    f"glpat-{CANARY}",
    f"hf_{PLAIN * 2}",
    f"npm_{PLAIN * 2}",
    f"AIzaSy{CANARY * 2}",
    f"xoxb-{CANARY}",
    f"eyJhbGciOiJIUzI1NiJ9.{PLAIN}.{CANARY}",
    f"-----BEGIN RSA PRIVATE KEY-----\n{PLAIN}\n-----END RSA PRIVATE KEY-----",
    f"-----BEGIN PRIVATE KEY-----\nDEK-Info: AES-256\n\n{PLAIN}",
    json.dumps(json.dumps({"password": CANARY, "a": 1})),
    json.dumps(json.dumps(json.dumps({"password": CANARY}))),
    f"[(b'x-api-key', b'{CANARY}')]",
    f"headers=[('accept', '*/*'), ('cookie', 'sid={CANARY}')]",
    f"PGPASSWORD={CANARY} psql",
    f"authtoken={CANARY}",
    f"PHPSESSID={CANARY}",
    f"?sp=r&sig={CANARY}&se=2",
    f'password="a\\"b-{CANARY}" rest',
    f"password='it\\'s {CANARY}'",
    f"password==={CANARY}",
    f":password => '{CANARY}'",
    f"password =\n  {CANARY}",
    f"postgresql://joe:pa@ss{CANARY}@db/x",
    f"postgresql://joe:{CANARY}@ss@db/x",
    f'Authorization: Digest username="joe", response="{CANARY}"',
    f'Cookie: a="1"; sid={CANARY}',
    f"credentials: {{'user': 'joe', 'value': {{'x': '{CANARY}'}}}}",
    f"passwords=['a', '{CANARY}']",
    f"\N{LATIN CAPITAL LETTER I WITH DOT ABOVE} password={CANARY}",
]


@pytest.mark.parametrize("text", SHAPES)
def test_the_usual_shapes_are_taken_out(text) -> None:
    told = redacted(text)
    assert CANARY not in told
    assert PLAIN not in told
    assert PUT in told
    assert redacted(told) == told


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
        "token_count=812 max_tokens=4096 tokens: 7",
        "{'api_key_count': 3, 'token-limit': 9, 'password_length': 12}",
        "token_type: bearer",
        "SyntaxError: Unexpected token: < in JSON",
        "bypass=1, design: 3, signal=9",
        "connect(user, password, 'utf-8')",
        "fields ('token', 'page', 'limit') are missing",
        "a task-force-of-many-people, sk-short, hf_hub_download, npm_config_registry",
        "mail joe@example.org about https://example.org/a:b",
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
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


PIECES = [
    *("a-", "password", "token:", "x://", "sk-", "eyJa.", "Bearer ", "_", "' ", "-----BEGIN "),
    *("eyJ-", "token_", "token-", "-----BEGIN", "a:b@", "://a:", "authorization:", "pass=", "'"),
    *("-----BEGIN PRIVATE KEY-----", "eyJaaaaaaaaaa.", "bearer aaaaaaaa", 'token="', "token={["),
    *('token:\\\\"', "cookie:x'", 'cookie:x"', "'token','", "sess", "gh", "sk-aaaa", "\u0130key"),
]


@pytest.mark.parametrize("piece", PIECES)
def test_no_text_is_slow(piece) -> None:
    text = (piece * 20_000)[:20_000]
    redacted(text[:1_000])  # patterns are compiled when first needed
    assert least_seconds(lambda: redacted(text), below=0.1) < 0.1


@pytest.mark.parametrize("piece", PIECES)
def test_ten_times_the_text_takes_ten_times_as_long(piece) -> None:
    long = (piece * 40_000)[:40_000]
    short = long[:4_000]
    redacted(short)

    def ten_short() -> None:
        for _ in range(10):
            redacted(short)

    # The same number of characters in ten texts and in one. What grew with the square of the
    # length would be slower by ten in every round; what is only disturbed has a quiet round.
    rounds = (least_seconds(lambda: redacted(long)) / least_seconds(ten_short) for _ in range(20))
    assert any(ratio < 1.5 for ratio in rounds)


def least_seconds(work, below=0.0) -> float:
    """Return the least processor time that *work* takes, or one that is less than *below*."""
    least = 60.0
    for _ in range(3):
        began = time.process_time()
        work()
        least = min(least, time.process_time() - began)
        if least < below:
            break
    return max(least, 1e-6)


def test_names_of_secrets_are_known() -> None:
    for name in ("password", "db_password", "API-KEY", "openai_api_key", "token", "client_secret"):
        assert is_secret_name(name)
    for name in ("passwords", "dbPass", "X-Api-Key", "cookies", "token_" + "x" * 99, "sig"):
        assert is_secret_name(name)
    for name in ("passenger", "tokens_used", "monkey", "page", "secretary", "compass", "signal"):
        assert not is_secret_name(name)
    for name in ("token_count", "tokens", "max_tokens", "key_count", "api_key_count", "tokenLimit"):
        assert not is_secret_name(name)


@pytest.fixture
def own_pattern(monkeypatch):
    def give(pattern: str) -> None:
        monkeypatch.setenv("STAGERUN_REDACT", pattern)
        own.cache_clear()

    yield give
    monkeypatch.undo()
    own.cache_clear()


def test_a_pattern_of_one_s_own_is_taken_out_too(own_pattern) -> None:
    own_pattern(r"patient \d+")
    assert redacted("patient 4711 is missing") == f"{PUT} is missing"


def test_a_pattern_that_cannot_be_used_lets_nothing_pass(own_pattern) -> None:
    own_pattern("(")
    with pytest.raises(SettingError, match="STAGERUN_REDACT"):
        redacted("patient 4711 is missing")


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
    nowhere_in(tmp_path)


def nowhere_in(folder) -> None:
    for file in folder.rglob("*"):
        assert file.is_dir() or CANARY.encode() not in file.read_bytes(), file


def fail(number):
    try:
        raise LookupError(f"https://joe:{CANARY}@example.org")
    except LookupError as error:
        error.add_note(f"with cookie: sid={CANARY}")
        raise ValueError(f"item {number}: password={CANARY}") from error


@stage(mode="thread")
def fails_in_a_thread(number, ctx):
    ctx.log.warning("password=%s", CANARY)
    ctx.report(f"token={CANARY}")
    fail(number)


@stage(mode="process")
def fails_in_a_process(number, ctx):
    ctx.log.warning("password=%s", CANARY)
    ctx.report(f"token={CANARY}")
    fail(number)


@stage(mode="asyncio")
async def fails_in_asyncio(number, ctx):
    ctx.log.warning("password=%s", CANARY)
    ctx.report(f"token={CANARY}")
    fail(number)


@pytest.mark.real
@pytest.mark.parametrize("failing", [fails_in_a_thread, fails_in_a_process, fails_in_asyncio])
async def test_no_secret_of_an_error_elsewhere_reaches_the_disk(tmp_path, failing) -> None:
    async with open_runtime(tmp_path / "runs.db") as runtime:
        run = await runtime.start(Pipeline("leak", [failing]), [1, 2])
        result = await run.wait()
        told = f"{await run.document()}{await run.why()}{result}"
    assert PUT in told
    assert CANARY not in told
    nowhere_in(tmp_path)


async def test_no_secret_of_a_source_or_a_resource_reaches_the_disk(tmp_path) -> None:
    @stage
    async def use(number):
        return number

    @asynccontextmanager
    async def broken():
        raise OSError(f"cannot open postgresql://joe:{CANARY}@db/x")
        yield

    @stage(resource=broken, restart=Restart(attempts=1))
    async def never(number):
        return number

    def source():
        yield 1
        fail(2)

    async with open_runtime(tmp_path / "runs.db") as runtime:
        for pipeline, items in ((Pipeline("a", [use]), source), (Pipeline("b", [never]), [1])):
            run = await runtime.start(pipeline, items)
            result = await run.wait()
            assert result.status == "failed"
            assert PUT in result.message
            assert CANARY not in f"{await run.document()}{await run.why()}{result}"
    nowhere_in(tmp_path)


REASON = f"because password={CANARY}"


@pytest.fixture
def endless():
    @stage(workers=1)
    async def sleep(number):
        await trio.sleep_forever()

    return Pipeline("endless", [sleep], grace=0.1)


async def is_cancelled(run) -> None:
    with trio.fail_after(10):
        await run.wait()
    document = await run.document()
    assert document["status"] == "cancelled"
    assert f"because password={PUT}" in document["message"]
    assert CANARY not in f"{document}{await run.why()}"


async def test_no_secret_of_a_reason_reaches_the_disk(tmp_path, endless) -> None:
    token = CancellationToken()
    async with open_runtime(tmp_path / "runs.db") as runtime:
        by_token = await runtime.start(endless, [1], token=token)
        asked, by_hand = [await runtime.start(endless, [1]) for _ in range(2)]
        token.cancel(REASON)
        assert CANARY not in str(await runtime.cancel(asked.id, REASON))
        await by_hand.cancel(REASON)
        for run in (by_token, asked, by_hand):
            await is_cancelled(run)
    nowhere_in(tmp_path)


async def test_no_secret_of_a_reason_reaches_the_disk_while_a_run_waits_for_its_turn(
    tmp_path, endless
) -> None:
    async with open_runtime(tmp_path / "runs.db") as runtime:
        first, asked, by_hand = [
            await runtime.start(endless, [1], concurrency_key="one") for _ in range(3)
        ]
        assert (asked.status, by_hand.status) == ("queued", "queued")
        assert CANARY not in str(await runtime.cancel(asked.id, REASON))
        await by_hand.cancel(REASON)
        await is_cancelled(asked)
        await is_cancelled(by_hand)
        await first.cancel(REASON)
        await is_cancelled(first)
    nowhere_in(tmp_path)


@pytest.mark.real
async def test_no_secret_of_a_reason_from_another_process_reaches_the_disk(
    tmp_path, endless
) -> None:
    path = tmp_path / "runs.db"
    async with open_runtime(path) as runtime:
        runs = [await runtime.start(endless, [1], concurrency_key="one") for _ in range(2)]
        for run in reversed(runs):  # the one that waits for its turn first
            command = [sys.executable, "-m", "stagerun", "cancel", run.id, "--db", str(path)]
            command += ["--reason", REASON]
            told = await trio.run_process(
                command, capture_stdout=True, stderr=subprocess.STDOUT, check=False
            )
            assert CANARY not in told.stdout.decode()
            await is_cancelled(run)
    nowhere_in(tmp_path)


@pytest.mark.real
async def test_no_secret_of_what_still_runs_is_told(tmp_path) -> None:
    over, begun = threading.Event(), trio.Event()
    host = trio.lowlevel.current_trio_token()

    @stage(mode="thread", workers=1)
    def stubborn(number, ctx):
        threading.current_thread().name = f"token={CANARY}"
        ctx.report(f"password={CANARY}", f"token={CANARY}")
        host.run_sync_soon(begun.set)
        over.wait(30)

    async with open_runtime(tmp_path / "runs.db") as runtime:
        run = await runtime.start(Pipeline("stubborn", [stubborn], grace=0.05), [1])
        with trio.fail_after(10):
            await begun.wait()
            told = f"{await run.why()}"
            await run.cancel(REASON)
            result = await run.wait()
        document = await run.document()
        told += f"{document}{await run.why()}{runtime.statistics()}{result}"
        assert document["survivors"]
        assert CANARY not in told
        over.set()
    nowhere_in(tmp_path)


async def test_labels_and_keys_are_the_user_s_and_stay_as_they_are(tmp_path) -> None:
    @stage
    async def use(number):
        return number

    labels, key = {"session_id": "42", "note": "token: abc"}, "sync-session_id=42"
    async with open_runtime(tmp_path / "runs.db") as runtime:
        run = await runtime.start(Pipeline("use", [use]), [1], labels=labels, key=key)
        await run.wait()
        assert (await run.document())["labels"] == labels
        assert (await runtime.start(Pipeline("use", [use]), [1], key=key)).id == run.id


async def test_what_is_shown_of_params_keeps_no_secret(tmp_path) -> None:
    seen = []

    @stage
    async def use(number, ctx):
        seen.append(ctx.params["api_key"])

    async with open_runtime(tmp_path / "runs.db") as runtime:
        params = {
            "api_key": CANARY,
            "nested": [{"password": CANARY}],
            "passwords": [CANARY],
            "credentials": {"id": "joe", "value": CANARY},
            "headers": [["authorization", CANARY], ["accept", "*/*"]],
            "dsn": f"mysql://joe:{CANARY}@db",
            "token_count": 812,
            "page": 1,
        }
        run = await runtime.start(Pipeline("use", [use]), [1], params=params)
        await run.wait()
        document = await run.document()
    assert document["params"] == {
        "api_key": PUT,
        "nested": [{"password": PUT}],
        "passwords": PUT,
        "credentials": PUT,
        "headers": [["authorization", PUT], ["accept", "*/*"]],
        "dsn": f"mysql://{PUT}@db",
        "token_count": 812,
        "page": 1,
    }
    assert seen == [CANARY]
