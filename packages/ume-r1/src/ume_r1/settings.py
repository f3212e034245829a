"""What the command takes where an option was left out: the environment, then a small file.

`UME_MODEL`, `UME_ENGINE`, `UME_DEVICE` and `UME_DTYPE`, else the keys of the same names in
`~/.config/ume/config.toml` (`XDG_CONFIG_HOME` moves it, `UME_CONFIG` names another file):

```toml
model = "ume-r1-2b"
device = "cuda"
```

Only the command reads them; `ume_r1.load` does what its arguments say.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from ume_core.errors import InvalidOption, did_you_mean

DEFAULT_MODEL = "ume-nano"
NAMES = ("model", "engine", "device", "dtype")


def setting(name: str) -> str | None:
    """One of `NAMES`; None where neither place has it.

    Raises:
        InvalidOption: the file cannot be read, or holds something else.
    """
    return os.environ.get(f"UME_{name.upper()}") or _file_settings(config_file()).get(name)


def config_file() -> Path:
    """Where the file is, or would be."""
    named = os.environ.get("UME_CONFIG")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CONFIG_HOME", "")
    # A relative one is void: https://specifications.freedesktop.org/basedir-spec, "basics".
    if Path(base).is_absolute():
        return Path(base) / "ume" / "config.toml"
    try:
        return Path.home() / ".config" / "ume" / "config.toml"
    except RuntimeError:  # neither HOME nor a passwd entry, as in some containers
        return Path(".config/ume/config.toml")


@lru_cache(maxsize=4)
def _file_settings(path: Path) -> dict[str, str]:
    if not path.is_file():
        if os.environ.get("UME_CONFIG"):
            raise InvalidOption(f"UME_CONFIG names {path}, which is not a file", fix="create it")
        return {}
    found = _parsed(path)
    for key, value in found.items():
        if key not in NAMES:
            fix = f"{did_you_mean(key, NAMES)}use: {', '.join(NAMES)}"
            raise InvalidOption(f"{path} has an unknown key {key!r}", fix=fix)
        if not isinstance(value, str):
            raise InvalidOption(f"{path}: {key} is {value!r}", fix="write a string")
    return found


def _parsed(path: Path) -> dict[str, Any]:
    try:
        import tomllib  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib  # pyright: ignore[reportMissingImports]
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidOption(f"{path} cannot be read: {error}", fix="mend or remove it") from error
