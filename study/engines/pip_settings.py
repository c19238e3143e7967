"""Where packages come from: what pip is configured with, in the words of uv.

So a mirror, a folder of wheels or a proxy that a person told pip about serves the builds, too.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping

_SECTIONS = ("global.", "install.", ":env:.")  # the later has the last word
_VARIABLES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "constraint": "UV_CONSTRAINT",
    "build-constraint": "UV_BUILD_CONSTRAINT",
    "uploaded-prior-to": "UV_EXCLUDE_NEWER",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "client-cert": "SSL_CLIENT_CERT",
    "proxy": "ALL_PROXY",
    "timeout": "UV_HTTP_TIMEOUT",
    "default-timeout": "UV_HTTP_TIMEOUT",
    "retries": "UV_HTTP_RETRIES",
}
"""pip's option to uv's environment variable. Source: uv's reference of environment variables."""
_FLAGS = {"no-index": "--no-index", "no-cache-dir": "--no-cache"}
"""pip's option to uv's, where there is no variable."""
_PACKAGES = ("no-binary", "only-binary")
"""Options of both, with the names of packages, `:all:` or `:none:`; uv wants each name apart."""
_YES = ("1", "true", "yes", "on")


def pip_settings() -> dict[str, str]:
    """What pip would use when it installs, option to value; empty where there is no pip."""
    asked = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return read_settings(asked.stdout.splitlines())


def read_settings(lines: Iterable[str]) -> dict[str, str]:
    """The lines that `pip config list` prints: `global.find-links='/opt/wheels'`."""
    stated = dict(line.split("=", 1) for line in lines if "=" in line)
    return {
        name.removeprefix(section): str(ast.literal_eval(value))
        for section in _SECTIONS
        for name, value in stated.items()
        if name.startswith(section)
    }


def uv_variables(settings: Mapping[str, str]) -> dict[str, str]:
    """Environment variables that tell uv the same; what a person set for uv itself stands.

    Like pip, uv then takes the best version of all indexes, not of the first that has any.
    """
    told = {"UV_INDEX_STRATEGY": "unsafe-best-match"}
    for option, variable in _VARIABLES.items():
        if words := settings.get(option, "").split():
            told[variable] = ("," if option == "find-links" else " ").join(words)
    if settings.get("pre", "").lower() in _YES:
        told["UV_PRERELEASE"] = "allow"
    if provider := _keyring(settings.get("keyring-provider")):
        told["UV_KEYRING_PROVIDER"] = provider
    return {name: value for name, value in told.items() if name not in os.environ}


def uv_options(settings: Mapping[str, str]) -> list[str]:
    """Options of `uv pip install` that tell it the same."""
    flags = [uv for pip, uv in _FLAGS.items() if settings.get(pip, "").lower() in _YES]
    for option in _PACKAGES:
        for name in settings.get(option, "").replace(",", " ").split():
            flags += [f"--{option}", name]
    return flags


def _keyring(provider: str | None) -> str | None:
    """A keyring is asked by its command only: where pip would import it, that has to be there."""
    if provider in (None, "", "disabled", "subprocess"):
        return provider
    return "subprocess" if shutil.which("keyring") else None
