import math
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from attrs import AttrsInstance, evolve, fields
from hypothesis import given, settings
from hypothesis import strategies as st

from stagerun.errors import SettingError
from stagerun.model.outcome import StageOutcome
from stagerun.model.pipeline import Pipeline, batch, collect, stage
from stagerun.model.policy import Batch, Collect, Restart, Retry
from stagerun.model.stage import Stage
from stagerun.rules.settings import (
    GLOBALS,
    OPTIONS,
    Option,
    apply_settings,
    current_settings,
    unknown_settings,
)

ROOT = Path(__file__).parents[2]

# Policies that stay in the code, because a text cannot say them or results depend on them.
IN_CODE: dict[type, set[str]] = {
    Pipeline: {"name", "stages", "source"},
    Stage: {
        "function",
        "kind",
        "name",
        "version",
        "mode",
        "resource",
        "key",
        "wants_ctx",
        "value_type",
        "result_type",
    },
    Retry: {"on"},
    Collect: {"by"},
}
PARTS: dict[str, type[AttrsInstance]] = {
    "retry": Retry,
    "restart": Restart,
    "batch": Batch,
    "collect": Collect,
}


async def work(item: Any) -> Any:
    return item


async def work_on_many(items: list[Any]) -> list[Any]:
    return items


async def gather(outcomes: AsyncIterator[StageOutcome]) -> int:
    return len([each async for each in outcomes])


def pipeline_of(name: str, *stages: str) -> Pipeline:
    return Pipeline(name, [stage(name=each)(work) for each in stages])


INTEGRITY = Pipeline(
    "integrity",
    [
        stage(name="pages")(work),
        stage(name="records")(work),
        batch(name="check")(work_on_many),
        collect(name="report")(gather),
    ],
)
VARIABLES = current_settings(INTEGRITY)


def variable_of(option: Option) -> str:
    return f"STAGERUN_INTEGRITY_{'' if option.owner is Pipeline else 'CHECK_'}{option.name}"


def owner_in(pipeline: Pipeline, option: Option) -> Pipeline | Stage:
    return pipeline if option.owner is Pipeline else pipeline.stages[2]


def refusal(option: Option, text: str) -> SettingError:
    with pytest.raises(SettingError) as caught:
        apply_settings(INTEGRITY, {variable_of(option): text})
    assert caught.value.option == variable_of(option)
    assert str(caught.value).startswith(f"{variable_of(option)} must be ")
    assert ", got " in caught.value.problem
    return caught.value


def by_path(path: str, owner: type = Stage) -> Option:
    return next(each for each in OPTIONS if each.owner is owner and each.path == path)


by_option = pytest.mark.parametrize("option", OPTIONS, ids=lambda o: f"{o.owner.__name__}.{o.path}")


# The table against the model.


def test_every_policy_of_the_model_can_be_set_or_is_listed_as_belonging_to_the_code() -> None:
    for owner in (Pipeline, Stage):
        paths = set[str]()
        for attribute in fields(owner):
            if attribute.name in PARTS:
                part = PARTS[attribute.name]
                in_part = {each.name for each in fields(part)} - IN_CODE.get(part, set())
                paths |= {f"{attribute.name}.{name}" for name in in_part}
            else:
                paths.add(attribute.name)
        settable = {option.path for option in OPTIONS if option.owner is owner}
        assert settable == paths - IN_CODE[owner]


def test_no_two_options_of_an_owner_have_the_same_name() -> None:
    names = [(option.owner, option.name) for option in OPTIONS]
    assert len(set(names)) == len(names)


# Applying.


def test_without_a_variable_the_pipeline_is_returned_as_it_is() -> None:
    environ = {"PATH": "/bin", "STAGERUN_OTHER_DEADLINE": "1", "STAGERUN_LOG_LEVEL": "DEBUG"}
    assert apply_settings(INTEGRITY, environ) is INTEGRITY


def test_a_variable_sets_its_stage_and_no_other() -> None:
    environ = {"STAGERUN_INTEGRITY_PAGES_WORKERS": "8", "STAGERUN_INTEGRITY_DEADLINE": "60.5"}
    pipeline = apply_settings(INTEGRITY, environ)
    assert [each.workers for each in pipeline.stages] == [8, 1, 1, 1]
    assert pipeline.deadline == 60.5
    assert current_settings(pipeline) == VARIABLES | environ
    assert INTEGRITY.stages[0].workers == 1


def test_a_part_keeps_what_the_code_gave_it() -> None:
    retry = Retry(attempts=5, on=OSError, base=2)
    pipeline = Pipeline("crawl", [stage(retry=retry, name="fetch")(work)])
    pipeline = apply_settings(pipeline, {"STAGERUN_CRAWL_FETCH_RETRY_CAP": "4"})
    assert pipeline.stages[0].retry == evolve(retry, cap=4.0)


def test_names_are_upper_cased_and_hyphens_become_underscores() -> None:
    pipeline = pipeline_of("night-Crawl", "fetch-all")
    pipeline = apply_settings(pipeline, {"STAGERUN_NIGHT_CRAWL_FETCH_ALL_WORKERS": "3"})
    assert pipeline.stages[0].workers == 3


def test_off_switches_a_deadline_off_where_the_model_allows_it() -> None:
    environ = {"STAGERUN_INTEGRITY_DEADLINE": "off", "STAGERUN_INTEGRITY_CHECK_DEADLINE": "off"}
    pipeline = apply_settings(INTEGRITY, environ)
    assert pipeline.deadline is None
    assert pipeline.stages[2].deadline is None
    problem = refusal(by_path("http_total"), "off").problem
    assert problem == "must be a finite number above 0, got 'off'"


def test_only_batch_stages_have_the_options_of_batches() -> None:
    assert "STAGERUN_INTEGRITY_CHECK_BATCH_SIZE" in VARIABLES
    assert "STAGERUN_INTEGRITY_PAGES_BATCH_SIZE" not in VARIABLES
    environ = {"STAGERUN_INTEGRITY_PAGES_BATCH_SIZE": "5"}
    assert apply_settings(INTEGRITY, environ) is INTEGRITY
    assert len(unknown_settings(INTEGRITY, environ)) == 1


# Names that can be read in two ways.


def test_an_option_of_the_pipeline_goes_before_one_of_a_stage() -> None:
    pipeline = pipeline_of("crawl", "source")
    pipeline = apply_settings(pipeline, {"STAGERUN_CRAWL_SOURCE_DEADLINE": "7"})
    assert pipeline.source_deadline == 7
    assert pipeline.stages[0].deadline == 300


@pytest.mark.parametrize("names", [("a", "a-restart"), ("a-restart", "a")])
def test_the_longer_stage_name_goes_before_the_shorter_one(names: tuple[str, ...]) -> None:
    pipeline = pipeline_of("crawl", *names)
    pipeline = apply_settings(pipeline, {"STAGERUN_CRAWL_A_RESTART_DEADLINE": "7"})
    seconds = {each.name: (each.deadline, each.restart.deadline) for each in pipeline.stages}
    assert seconds == {"a": (300, 30), "a-restart": (7, 30)}


def test_a_stage_named_like_a_part_keeps_its_own_variables() -> None:
    pipeline = pipeline_of("crawl", "retry", "fetch")
    environ = {
        "STAGERUN_CRAWL_RETRY_RETRY_ATTEMPTS": "2",
        "STAGERUN_CRAWL_FETCH_RETRY_ATTEMPTS": "3",
        "STAGERUN_CRAWL_RETRY_DEADLINE": "4",
    }
    pipeline = apply_settings(pipeline, environ)
    assert [each.retry.attempts for each in pipeline.stages] == [2, 3]
    assert [each.deadline for each in pipeline.stages] == [4, 300]


def test_stages_with_equal_upper_cased_names_share_their_variables() -> None:
    pipeline = pipeline_of("crawl", "fetch-all", "fetch_all", "Fetch-All", "parse")
    pipeline = apply_settings(pipeline, {"STAGERUN_CRAWL_FETCH_ALL_WORKERS": "3"})
    assert [each.workers for each in pipeline.stages] == [3, 3, 3, 1]


# Variables that set nothing.


def test_what_is_known_or_of_others_is_no_warning() -> None:
    environ = dict.fromkeys([*VARIABLES, *GLOBALS, "STAGERUN_OTHER_X", "INTEGRITY_X"], "1")
    assert unknown_settings(INTEGRITY, environ) == []
    assert unknown_settings(pipeline_of("http", "a"), {"STAGERUN_HTTP_TOTAL": "1"}) == []


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("STAGERUN_INTEGRITY_PAGES_WORKRES", "STAGERUN_INTEGRITY_PAGES_WORKERS"),
        ("STAGERUN_INTEGRITY_PAGE_WORKERS", "STAGERUN_INTEGRITY_PAGES_WORKERS"),
        ("STAGERUN_INTEGRITY_DEADLNE", "STAGERUN_INTEGRITY_DEADLINE"),
        ("STAGERUN_INTEGRITY_CHECK_BATCHSIZE", "STAGERUN_INTEGRITY_CHECK_BATCH_SIZE"),
        ("stagerun_integrity_deadline", "STAGERUN_INTEGRITY_DEADLINE"),
    ],
)
def test_a_typo_is_answered_with_what_was_probably_meant(typo: str, meant: str) -> None:
    (warning,) = unknown_settings(INTEGRITY, {typo: "secret"})
    assert warning == (
        f"{typo} is no setting of pipeline 'integrity' and changes nothing in it; "
        f"did you mean {meant}?"
    )


def test_a_name_far_from_all_others_gets_no_hint() -> None:
    (warning,) = unknown_settings(INTEGRITY, {"STAGERUN_INTEGRITY_ZZZ": ""})
    assert "did you mean" not in warning


def test_what_another_known_pipeline_has_or_is_closer_to_is_left_to_it() -> None:
    crawl, deep = pipeline_of("crawl", "fetch", "deep"), pipeline_of("crawl-deep", "fetch")
    environ = dict.fromkeys(
        [
            "STAGERUN_CRAWL_DEEP_GRACE",  # of crawl-deep
            "STAGERUN_CRAWL_DEEP_WORKERS",  # of stage deep in crawl
            "STAGERUN_CRAWL_DEEP_FETCH_WORKRES",  # a typo, closer to crawl-deep
        ],
        "1",
    )
    assert len(unknown_settings(crawl, environ)) == 2
    assert unknown_settings(crawl, environ, [crawl, deep]) == []
    (warning,) = unknown_settings(deep, environ, [crawl, deep])
    assert "did you mean STAGERUN_CRAWL_DEEP_FETCH_WORKERS?" in warning


# Values.

WHOLE = st.integers(min_value=1, max_value=10**12)
FROM_ZERO_WHOLE = st.integers(min_value=0, max_value=10**12)
ABOVE = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
FROM_ZERO = st.floats(min_value=0, allow_infinity=False).map(abs)  # -0.0 needs no spelling
SHARE = st.floats(min_value=0, max_value=1).map(abs)
VALID: dict[str, st.SearchStrategy[tuple[str, Any]]] = {
    "must be a whole number of at least 0": FROM_ZERO_WHOLE.map(lambda n: (str(n), n)),
    "must be a whole number of at least 1": WHOLE.map(lambda n: (str(n), n)),
    "must be a finite number above 0": ABOVE.map(lambda x: (str(x), x)),
    "must be a finite number above 0, or off to switch it off": (
        ABOVE.map(lambda x: (str(x), x)) | st.just(("off", None))
    ),
    "must be a finite number of at least 0": FROM_ZERO.map(lambda x: (str(x), x)),
    "must be a share from 0 to 1": SHARE.map(lambda x: (str(x), x)),
    "must be true or false": st.sampled_from([("true", True), ("false", False)]),
    "must be 'settle' or 'resume'": st.sampled_from(["settle", "resume"]).map(lambda w: (w, w)),
}
INVALID = (
    *("", " ", "\t", "\n", " 1", "1 ", "1\n", "1_0", "1,5", "0x1", "1e999", "1" + "0" * 400 + ".5"),
    *("nan", "NaN", "inf", "-inf", "Infinity", "-1", "-0.5", "-1e-9", "+1", "--1", "1.2.3", "e"),
    *("none", "None", "OFF", "True", "TRUE", "yes", "no", "Settle", "settle ", "null", "\0", "."),
    # Digits of other scripts and widths, which int and float would read; lone surrogates.
    *("\u0663", "\uff11", "1\u0663", "\U0001d7db", "\u00b2", "\u00bd", "\ud800", "\udcff"),
)
options = st.sampled_from(OPTIONS)


def rule_of(option: Option) -> str:
    return refusal(option, "").problem.removesuffix(", got ''")


@by_option
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_a_valid_value_round_trips(option: Option, data: st.DataObject) -> None:
    text, value = data.draw(VALID[rule_of(option)])
    pipeline = apply_settings(INTEGRITY, {variable_of(option): text})
    assert option.current(owner_in(pipeline, option)) == value
    spelled = current_settings(pipeline)
    again = apply_settings(INTEGRITY, {variable_of(option): spelled[variable_of(option)]})
    assert option.current(owner_in(again, option)) == value
    assert current_settings(again) == spelled


@by_option
def test_what_is_no_value_anywhere_is_refused_with_the_name_of_the_variable(
    option: Option,
) -> None:
    for text in INVALID:
        refusal(option, text)


@by_option
def test_true_is_a_value_of_switches_alone(option: Option) -> None:
    if option.unit.name == "switch":
        pipeline = apply_settings(INTEGRITY, {variable_of(option): "true"})
        assert option.current(owner_in(pipeline, option)) is True
    else:
        refusal(option, "true")


@settings(deadline=None)
@given(option=options, number=st.floats(max_value=0, exclude_max=True) | st.integers(max_value=-1))
def test_a_negative_number_is_refused(option: Option, number: float) -> None:
    refusal(option, str(number))


@pytest.mark.parametrize("text", ["0", "00", "1.0", "1e3", "off", "9" * 5000], ids=len)
def test_a_count_is_a_whole_number_from_1_written_with_digits(text: str) -> None:
    for option in OPTIONS:
        if option.unit.name in ("attempts", "bytes", "items"):
            refusal(option, text)


def outcome(option: Option, text: str) -> Pipeline | SettingError:
    try:
        return apply_settings(INTEGRITY, {variable_of(option): text})
    except SettingError as error:
        return error


@settings(max_examples=300, deadline=None)
@given(option=options, text=st.text() | st.from_regex(r"[0-9.eE+-]+", fullmatch=True))
def test_any_text_is_a_value_within_the_range_or_refused_and_nothing_else(
    option: Option, text: str
) -> None:
    pipeline = outcome(option, text)
    if isinstance(pipeline, SettingError):
        assert pipeline.option == variable_of(option)
    else:
        value = option.current(owner_in(pipeline, option))
        assert not isinstance(value, float) or math.isfinite(value)


def test_a_refusal_repeats_the_text_that_stood_there_but_not_all_of_a_long_one() -> None:
    error = refusal(by_path("workers"), "4.0")
    assert str(error) == (
        "STAGERUN_INTEGRITY_CHECK_WORKERS must be a whole number of at least 1, got '4.0'"
    )
    assert len(str(refusal(by_path("workers"), "x" * 100_000))) < 200


# The documents.


def docs_row(option: Option) -> str:
    allowed = rule_of(option).removeprefix("must be ")
    return (
        f"| `{option.name}` | {option.help} | {option.unit.name} "
        f"| `{VARIABLES[variable_of(option)]}` | {allowed} |"
    )


@pytest.mark.parametrize(
    ("heading", "owner"), [("## Of a pipeline", Pipeline), ("## Of a stage", Stage)]
)
def test_the_reference_lists_every_option_and_nothing_else(heading: str, owner: type) -> None:
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    section = text.split(f"{heading}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `.*$", section, flags=re.MULTILINE)
    assert rows == [docs_row(option) for option in OPTIONS if option.owner is owner]


def test_the_reference_lists_every_variable_of_no_pipeline_and_nothing_else() -> None:
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    section = text.split("## Of the whole process\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|.*\| (\S+) \|$", section, flags=re.MULTILINE)
    assert dict(rows) == {name: f"`{text}`" if text else "none" for name, text in GLOBALS.items()}


def test_every_variable_that_the_reference_uses_in_an_example_exists() -> None:
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    used = dict(re.findall(r"^(STAGERUN_\w+)=(\S+)$", text, flags=re.MULTILINE))
    assert used
    assert set(used) <= {*VARIABLES, *GLOBALS}
    assert current_settings(apply_settings(INTEGRITY, used)).items() >= {
        (name, value) for name, value in used.items() if name in VARIABLES
    }


def test_the_example_file_lists_every_variable_with_its_default_and_nothing_else() -> None:
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    listed = [line.removeprefix("#").split("=") for line in lines if "STAGERUN_" in line]
    assert sorted(listed) == sorted([name, text] for name, text in (VARIABLES | GLOBALS).items())
    assert all(not line or line.startswith("#") for line in lines)
