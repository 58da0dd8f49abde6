"""The pytest plugin, as users get it: by its entry point, in a project of their own."""

import pytest

pytest_plugins = ["pytester"]

PIPELINE = """
    import trio
    from stagerun import Pipeline, stage

    @stage(workers=2, deadline=30)
    async def slow(n):
        await trio.sleep(10)
        return n

    pipeline = Pipeline("slow", [slow], deadline=None)
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(sample=PIPELINE)
    pytester.makeini("[pytest]\ntrio_mode = true\nfilterwarnings = error\n")
    pytester.syspathinsert()
    return pytester


def test_simulated_runs_over_as_many_seeds_as_wanted(project: pytest.Pytester) -> None:
    project.makepyfile("""
        from sample import pipeline

        def test_calm(simulated, stagerun_seed):
            simulation = simulated(pipeline, [1, 2])
            assert simulation.results == [1, 2]
            assert simulation.seed == stagerun_seed
            assert simulated(pipeline, [1], seed=77).seed == 77

        def test_of_something_else():
            pass
    """)
    once = project.runpytest_inprocess("-v")
    once.assert_outcomes(passed=2)
    once.stdout.fnmatch_lines(["*::test_calm PASSED*"])
    once.stdout.no_fnmatch_line("stagerun: seed*")  # what nobody asked for is not told
    often = project.runpytest_inprocess("-v", "--stagerun-seeds=3", "--stagerun-seed=40")
    often.assert_outcomes(passed=4)
    often.stdout.fnmatch_lines(["stagerun: seed 40 to 42", "*::test_calm?seed42? PASSED*"])
    often.stdout.fnmatch_lines(["*::test_of_something_else PASSED*"])


def test_a_failure_shows_the_seed_and_what_happened(project: pytest.Pytester) -> None:
    project.makepyfile("""
        from sample import pipeline
        from stagerun.testing import Crash, FaultPlan

        def test_wrong(simulated):
            faults = FaultPlan([Crash(at=5)])
            assert simulated(pipeline, [1, 2], faults=faults).results == [1, 2, 3]

        def test_of_something_else():
            assert not "wrong"
    """)
    result = project.runpytest_inprocess("--stagerun-seed=5")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "*- stagerun -*",
            "simulation with seed 5 (--stagerun-seed)",
            "5.000 process 0 is killed",
        ]
    )
    assert str(result.stdout).count("- stagerun -") == 1


def test_crashed_everywhere_crashes_with_the_test_s_seed(project: pytest.Pytester) -> None:
    project.makepyfile("""
        from sample import pipeline

        def test_crashes(crashed_everywhere):
            report = crashed_everywhere(pipeline, [1])
            assert report.crashes > 5
            assert report.undisturbed.seed == 3
    """)
    project.runpytest_inprocess("--stagerun-seed=3").assert_outcomes(passed=1)


def test_virtual_time_is_for_those_alone_who_ask_for_it(project: pytest.Pytester) -> None:
    project.makepyfile("""
        import sqlite3
        import time
        import trio
        from sample import pipeline

        async def test_virtual(virtual_runtime, tmp_path):
            begun = time.monotonic()
            run = await virtual_runtime.start(pipeline, range(300))
            assert (await run.wait()).status == "succeeded"
            assert trio.current_time() >= 1500
            assert time.monotonic() - begun < 60
            with sqlite3.connect(tmp_path / "runs.db") as connection:
                assert connection.execute("SELECT count(*) FROM runs").fetchone() == (1,)
            connection.close()

        async def test_real():
            clock = trio.lowlevel.current_clock()
            assert type(clock).__name__ == "SystemClock"

        def test_plain():
            assert not trio.lowlevel.in_trio_run()
    """)
    project.runpytest_inprocess().assert_outcomes(passed=3)


def test_without_pytest_trio_a_virtual_runtime_says_what_it_needs(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\n")
    project.makepyfile("""
        def test_virtual(virtual_runtime):
            pass
    """)
    result = project.runpytest_inprocess("-p", "no:trio")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*virtual_runtime is for tests on trio: pip install pytest-trio*"])


@pytest.mark.parametrize("number", ["0", "-1", "many"])
def test_a_number_of_seeds_that_is_none_is_refused(project: pytest.Pytester, number: str) -> None:
    result = project.runpytest_inprocess(f"--stagerun-seeds={number}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--stagerun-seeds*"])


def test_the_plugin_can_be_switched_off(project: pytest.Pytester) -> None:
    project.makepyfile("def test_plain():\n    pass\n")
    result = project.runpytest_inprocess("-p", "no:stagerun")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("stagerun: seed*")
