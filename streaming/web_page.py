"""The web client's files as HTTP answers. Pure but for reading them once; the files are in ``web/``.

* Only the files that lie there have an answer, each under its own name, ``index.html`` under ``/`` as well.
* The page may load nothing from anywhere else, run no inline script, and be framed by nobody.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

_FOLDER = Path(__file__).parent / "web"
_INDEX = "index.html"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_POLICY = "; ".join(
    [
        "default-src 'none'",
        *(f"{kind}-src 'self'" for kind in ("script", "style", "img", "connect", "worker", "media")),
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # a new version of the daemon must not meet an old page
}


@dataclass(frozen=True, slots=True)
class WebFile:
    """What a GET is answered with, status 200; ``headers`` beside Content-Type and Content-Length."""

    content_type: str
    body: bytes
    headers: dict[str, str]


def web_file(path: str) -> WebFile | None:
    """The answer for a URL's path (without query, "" as "/"), None when there is no such file."""
    return _files().get(path.removeprefix("/") or _INDEX)


@cache
def _files() -> dict[str, WebFile]:
    files = [file for file in _FOLDER.iterdir() if file.suffix in _TYPES]
    return {file.name: WebFile(_TYPES[file.suffix], file.read_bytes(), _HEADERS) for file in files}
