"""The document of the API tells what is served, and answers are what it says."""

import re
from pathlib import Path
from typing import Any

import pytest

from stagerun.web.routes import Operation
from tests.web.asked import TOKEN, Api, ask, often, serving


def resolve(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


NAMES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}


def check(document: dict[str, Any], schema: dict[str, Any], value: Any, where: str) -> None:
    """Compare a value with a schema; an object may hold nothing that the schema does not name."""
    schema = resolve(document, schema)
    if "anyOf" in schema:
        if value is None:
            return
        schema = resolve(document, schema["anyOf"][0])
    if "type" not in schema:
        return
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    assert any(isinstance(value, NAMES[kind]) for kind in kinds), f"{where}: {value!r}"
    if value is not None and "enum" in schema:
        assert value in schema["enum"], where
    if isinstance(value, list) and "items" in schema:
        for each in value:
            check(document, schema["items"], each, f"{where}[]")
    if isinstance(value, dict) and "properties" in schema:
        known = schema["properties"]
        assert set(schema["required"]) <= set(value), f"{where}: {set(schema['required'])}"
        if not schema.get("additionalProperties"):
            assert set(value) <= set(known), f"{where}: {set(value) - set(known)}"
        for name, each in value.items():
            check(document, known.get(name, {}), each, f"{where}.{name}")


def schema_of(document: dict[str, Any], operation: Operation, status: int) -> dict[str, Any]:
    path = operation.path.replace(":path}", "}")
    told = document["paths"][path][operation.method.lower()]["responses"][str(status)]
    found: dict[str, Any] = told["content"]["application/json"]["schema"]
    return found


@pytest.fixture
async def document(tmp_path: Path) -> Any:
    async with serving(tmp_path) as api:
        yield (await api.get("/openapi.json")).json


async def test_every_route_stands_in_it_and_nothing_else(
    document: dict[str, Any], tmp_path: Path
) -> None:
    async with serving(tmp_path) as api:
        served = set()
        for route in api.built.app.routes:
            path = route.path.replace(":path}", "}")
            allowed = (await ask(api.app, route.path, "OPTIONS")).headers["allow"].split(", ")
            served |= {(path, each.lower()) for each in allowed if each in ("GET", "POST")}
        told = {(path, method) for path, item in document["paths"].items() for method in item}
        assert told == served
    names = [each["operationId"] for item in document["paths"].values() for each in item.values()]
    assert len(set(names)) == len(names)


async def test_every_name_that_it_gives_is_known_and_no_other_is(
    document: dict[str, Any], tmp_path: Path
) -> None:
    async with serving(tmp_path) as api:
        run = (await api.post("/runs", {"pipeline": "counting"})).json["id"]
        await api.ended(run)
        for operation in api.built.operations:
            if operation.method == "POST" or not operation.query:
                continue
            path = operation.path.replace("{id}", run).replace("{name}", "counting")
            told = document["paths"][operation.path]["get"]["parameters"]
            for parameter in told:
                if parameter["in"] != "query":
                    continue
                schema = parameter["schema"]
                value = str(schema.get("default", ""))
                if "enum" in schema:
                    value = schema["enum"][0]
                answer = await api.get(path, f"{parameter['name']}={value}")
                assert answer.status in (200, 204) or parameter["name"] in ("label", "after")
            assert (await api.get(path, "unheard_of=1")).status == 422


async def test_answers_are_as_it_says(tmp_path: Path) -> None:
    async with serving(tmp_path, schedules=[often]) as api:
        document = (await api.get("/openapi.json")).json
        for body in ({"pipeline": "counting"}, {"pipeline": "doubling", "items": [1, "bad", "x"]}):
            run = (await api.post("/runs", {**body, "labels": {"a": "b"}})).json["id"]
            await api.ended(run)
        seen = set()
        for operation in api.built.operations:
            path = operation.path.replace("{id}", run).replace("{name}", "doubling")
            path = path.replace("{schedule}", "often")
            if operation.method == "POST":
                body = {"pipeline": "counting"} if path == "/runs" else {}
                answer = await api.post(path, body)
            else:
                answer = await ask(api.app, path, token=TOKEN)
            if answer.headers.get("content-type") == "application/json":
                schema = schema_of(document, operation, answer.status)
                check(document, schema, answer.json, path)
                seen.add(schema["$ref"].rpartition("/")[2])
            elif answer.headers.get("content-type") == "application/problem+json":
                status = str(answer.status)
                told = document["paths"][operation.path.replace(":path}", "}")]
                assert status in told[operation.method.lower()]["responses"], path
                check(
                    document,
                    document["components"]["schemas"]["Problem"],
                    {name: answer.json[name] for name in ("type", "title", "status", "detail")},
                    path,
                )
        unseen = {"Problem", "RunHead", "RunListed", "LogLine", "Stage", "Item"}
        assert seen == set(document["components"]["schemas"]) - unseen


async def test_what_needs_a_token_is_told(document: dict[str, Any]) -> None:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            assert ("401" in operation["responses"]) == bool(operation["security"]), path
            assert operation["security"] or method == "get"
            assert operation["summary"].endswith(".")


async def test_the_page_of_the_document_is_served_whole(tmp_path: Path) -> None:
    async with serving(tmp_path) as api:
        page = (await api.get("/docs")).body.decode()
        parts = await parts_of(api, page)
        assert {"app.css", "docs.js"} <= parts
        assert "<script>" not in page
        assert "style=" not in page
        assert "://" not in page.replace("http://www.w3.org/2000/svg", "")


async def parts_of(api: Api, page: str) -> set[str]:
    parts = set(re.findall(r'(?:src|href)="static/([^"]+)"', page))
    for part in parts:
        assert (await api.get(f"/static/{part}")).status == 200
    return parts
