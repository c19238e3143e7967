"""Short questions over HTTP to a server on this machine, with the standard library."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Callable

_ASK = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
"""Straight to the server: a proxy of the environment must not stand between us."""


def http_text(url: str, *, api_key: str | None = None, timeout_s: float = 5.0) -> str:
    """The body of a GET, as text; `api_key` is sent as a bearer token.

    The time is for the connection, and again for each piece of the answer.

    Raises: OSError, if there is no success (`urllib.error.HTTPError` has its code).
    """
    headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
    request = urllib.request.Request(url, headers=headers)
    try:
        with _ASK(request, timeout=timeout_s) as answer:
            body: bytes = answer.read()
    except urllib.error.HTTPError as refusal:
        refusal.close()
        raise
    except http.client.HTTPException as broken:
        raise ConnectionError(f"{url}: {broken!r}") from broken
    return body.decode(errors="replace")


def http_json(url: str, *, api_key: str | None = None, timeout_s: float = 5.0) -> object:
    """The body of a GET, read as JSON.

    Raises: OSError, as `http_text`; ValueError, if the answer is no JSON.
    """
    return json.loads(http_text(url, api_key=api_key, timeout_s=timeout_s))


def http_ready(
    url: str, *, api_key: str | None = None, path: str = "/health", timeout_s: float = 2.0
) -> Callable[[], bool]:
    """A question for `serve`: does the server at `url` answer a GET of `path` with success?"""

    def is_ready() -> bool:
        try:
            http_text(f"{url}{path}", api_key=api_key, timeout_s=timeout_s)
        except OSError:
            return False
        return True

    return is_ready
