"""The document of the API, made from the very operations that serve it."""

import re
from collections.abc import Sequence
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, Final

from stagerun.web.bodies import Field
from stagerun.web.queries import Parameter
from stagerun.web.routes import Operation
from stagerun.web.schemas import SCHEMAS

__all__ = ["document"]

_PATHS: Final = {
    "id": "The run's identifier, the beginning of it, or `latest`.",
    "name": "The pipeline's name.",
    "schedule": "The schedule's name.",
}
_HEADERS: Final = {
    "Idempotency-Key": "The same as `key` in the body.",
    "Last-Event-ID": "The number of the last event that was received.",
}


def document(operations: Sequence[Operation]) -> dict[str, Any]:
    """Return the OpenAPI document of *operations*."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        path = re.sub(r":[a-z]+}", "}", operation.path)
        paths.setdefault(path, {})[operation.method.lower()] = _operation(operation, path)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "stagerun",
            "version": version("stagerun"),
            "description": "Runs of pipelines: start, look, cancel, resume. Paths are relative to"
            " where the service is mounted. Whatever is refused is a problem (RFC 9457) whose"
            " `detail` says what to do next.",
        },
        "servers": [{"url": "."}],
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "STAGERUN_TOKEN, or what stands in the file DATABASE.token."
                    " Not needed for reading from the machine itself.",
                }
            },
        },
    }


def _operation(operation: Operation, path: str) -> dict[str, Any]:
    name = getattr(operation.handler, "__name__", "")
    found: dict[str, Any] = {
        "operationId": name,
        "summary": operation.about,
        "parameters": [
            *(_in_path(name) for name in re.findall(r"{(\w+)}", path)),
            *(_in_query(parameter) for parameter in operation.query),
            *(_in_header(name) for name in operation.headers),
        ],
        "responses": {
            **{str(status): _answer(status, of) for status, of in operation.answers.items()},
            **{str(status): _problem(status) for status in sorted(_refusals(operation))},
        },
        "security": [] if operation.access == "open" else [{"token": []}],
    }
    if operation.method == "POST":
        found["requestBody"] = {
            "required": any(field.required for field in operation.body),
            "content": {"application/json": {"schema": _body(operation.body)}},
        }
    return found


def _refusals(operation: Operation) -> set[int]:
    """Return the statuses of problems: those of every operation, of its declaration, its own."""
    found = {400, 500, 503, *operation.refusals}
    if operation.access != "open":
        found.add(401)
    if operation.query or operation.body:
        found.add(422)
    if operation.method == "POST":
        found |= {403, 408, 413, 415}
    if "{" in operation.path:
        found.add(404)
    return found - set(operation.answers)


def _in_path(name: str) -> dict[str, Any]:
    about = _PATHS.get(name, "A part of a page.")
    schema = {"type": "string"}
    return {"name": name, "in": "path", "required": True, "description": about, "schema": schema}


def _in_query(parameter: Parameter) -> dict[str, Any]:
    schema = parameter.schema()
    found: dict[str, Any] = {"name": parameter.name, "in": "query", "description": parameter.about}
    if schema["type"] == "array":  # one text with commas, or the name again and again
        found["explode"] = "enum" not in schema["items"]
    return found | {"schema": schema}


def _in_header(name: str) -> dict[str, Any]:
    schema = {"type": "string"}
    return {"name": name, "in": "header", "description": _HEADERS[name], "schema": schema}


def _body(fields: Sequence[Field]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": [field.name for field in fields if field.required],
        "properties": {
            field.name: {**field.schema, "description": field.about} for field in fields
        },
        "additionalProperties": False,
    }


def _answer(status: int, of: str) -> dict[str, Any]:
    found: dict[str, Any] = {"description": HTTPStatus(status).phrase}
    if of in SCHEMAS:
        schema = {"$ref": f"#/components/schemas/{of}"}
        found["content"] = {"application/json": {"schema": schema}}
    elif of:
        found["content"] = {of: {"schema": {"type": "string"}}}
    return found


def _problem(status: int) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    content = {"application/problem+json": {"schema": schema}}
    return {"description": HTTPStatus(status).phrase, "content": content}
