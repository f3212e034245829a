"""A cache directory for torch where it finds none itself."""

from __future__ import annotations

import getpass
import logging
import os
import tempfile
from pathlib import Path

_log = logging.getLogger(__name__)
_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def name_compiler_cache() -> None:
    """Set TORCHINDUCTOR_CACHE_DIR where torch could not.

    torch's compiler, which importing transformers' models imports, makes a cache directory named
    after the user (torch 2.12 `_inductor/runtime/cache_dir_utils.py`), and raises where the user id
    has no name or nothing can be written, as in containers. Nothing here is compiled, so any
    directory will do; torch sets this variable itself otherwise.
    """
    if _VARIABLE in os.environ:
        return
    try:
        temporary = tempfile.gettempdir()
    except FileNotFoundError:  # all is read-only: a directory that exists, and stays as it is
        os.environ[_VARIABLE] = str(Path(__file__).parent)
        _log.debug("no temporary directory: torch's compiler has no cache")
        return
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):  # OSError since Python 3.13
        os.environ[_VARIABLE] = str(Path(temporary) / f"torchinductor_{os.getuid()}")
        _log.debug("the user has no name: torch's compiler cache is %s", os.environ[_VARIABLE])
