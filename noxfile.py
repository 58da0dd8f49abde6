"""The project's commands. `nox` runs lint, types and tests; `nox -l` lists all."""

import shutil

import nox

nox.options.sessions = ["lint", "types", "tests"]
nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False

PYTHONS = [
    version for version in ("3.11", "3.12", "3.13", "3.14") if shutil.which(f"python{version}")
]


@nox.session(python=PYTHONS or None)
def tests(session: nox.Session) -> None:
    """Run the test suite on every supported Python that is on this machine."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format."""
    session.install("ruff")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Check types, strictly."""
    session.install("-e", ".[dev]")
    session.run("mypy")


@nox.session
def campaign(session: nox.Session) -> None:
    """Do to stagerun what the world does: an hour or two, or what is asked for."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "tests.campaign", *(session.posargs or ["--size", "release"]))


@nox.session
def bench(session: nox.Session) -> None:
    """Measure stagerun against hand-written code, in one run."""
    session.install("-e", ".")
    session.run("python", "-m", "benchmarks", *(session.posargs or ["overhead"]))


@nox.session
def demo(session: nox.Session) -> None:
    """Run the main job: the integrity example against its own misbehaving service."""
    session.install("-e", ".[cli,http]")
    session.run("stagerun", "run", "examples/integrity/pipeline.py:pipeline", *session.posargs)
