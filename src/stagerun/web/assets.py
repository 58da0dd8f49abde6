"""The pages: files of this package, read once and served from memory."""

import hashlib
from importlib import resources
from typing import Final

from attrs import frozen
from starlette.requests import Request
from starlette.responses import Response

from stagerun.web.problems import Problem

__all__ = ["Assets"]

_KINDS: Final = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "png": "image/png",
    "woff2": "font/woff2",
}
"""By the ending of the name. Other files are not served."""


@frozen
class _File:
    content: bytes
    kind: str
    tag: str


class Assets:
    """Serves the pages and what they are made of."""

    def __init__(self) -> None:
        self._files = dict(_files())

    async def dashboard(self, request: Request) -> Response:
        """Answer with the dashboard."""
        return self._serve(request, "index.html")

    async def docs(self, request: Request) -> Response:
        """Answer with the page that explains the API."""
        return self._serve(request, "docs.html")

    async def static(self, request: Request) -> Response:
        """Answer with a part of a page."""
        return self._serve(request, request.path_params["name"])

    def _serve(self, request: Request, name: str) -> Response:
        file = self._files.get(name)
        if file is None:
            raise Problem(404, "no page has such a part", kind="no-page")
        headers = {"ETag": file.tag, "Cache-Control": "no-cache"}
        seen = request.headers.get("if-none-match", "")
        if file.tag in (tag.strip().removeprefix("W/") for tag in seen.split(",")):
            return Response(status_code=304, headers=headers)
        return Response(file.content, headers=headers | {"Content-Type": file.kind})


def _files() -> list[tuple[str, _File]]:
    found = []
    for path in resources.files("stagerun.web").joinpath("pages").iterdir():
        kind = _KINDS.get(path.name.rpartition(".")[2])
        if kind is not None and path.is_file():
            content = path.read_bytes()
            tag = f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'
            found.append((path.name, _File(content, kind, tag)))
    return found
