"""Small facts remembered between runs in the user's cache directory, where there is one.

A cache is optional: without a home, on a read-only disk or over a damaged file, reading finds
nothing and writing does nothing, and the logger `ume_core.user_cache` says so at debug level.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from pathlib import Path
from typing import cast

_log = logging.getLogger(__name__)


def recall(name: str) -> dict[str, str]:
    """What `remember` last wrote under this file name; empty if it cannot be read."""
    file = _file(name)
    if file is None or not file.is_file():
        return {}
    try:
        value: object = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        _log.debug("the cache %s cannot be read and is not used: %s", file, error)
        return {}
    if not isinstance(value, dict):
        _log.debug("the cache %s is no JSON object and is not used", file)
        return {}
    pairs = cast("dict[str, object]", value).items()
    return {key: fact for key, fact in pairs if isinstance(fact, str)}


def remember(name: str, facts: dict[str, str]) -> None:
    """Write a file of facts whole, in one step; or not at all."""
    file = _file(name)
    if file is None:
        return
    temporary = file.with_suffix(f".{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(facts), "utf-8")
        temporary.replace(file)
    except OSError as error:
        _log.debug("the cache %s cannot be written and is not used: %s", file, error)


def _file(name: str) -> Path | None:
    base = os.environ.get("XDG_CACHE_HOME", "")
    # A relative one is void: https://specifications.freedesktop.org/basedir-spec, "basics".
    if base and Path(base).is_absolute():
        return Path(base) / "ume" / name
    try:
        return Path.home() / ".cache" / "ume" / name
    except RuntimeError as error:  # neither HOME nor a passwd entry, as in some containers
        _log.debug("no cache is used: %s", error)
        return None
