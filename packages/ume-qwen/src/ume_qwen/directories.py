"""Directories that are written whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from ume_core.errors import InvalidOption


@contextmanager
def new_directory(directory: Path) -> Generator[Path, None, None]:
    """A directory beside the wanted one, which takes its name when the block ends well.

    Raises:
        InvalidOption: something is there already, or it is a link.
    """
    if not directory.name:
        raise InvalidOption(f"{directory} is the working directory", fix="name a new directory")
    target = directory.parent.resolve() / directory.name
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise InvalidOption(f"{directory} is not empty", fix="name a new directory")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield part
        mask = os.umask(0)
        os.umask(mask)
        part.chmod(0o777 & ~mask)  # as `mkdir` makes them; a temporary one is its owner's alone
        if target.exists():
            target.rmdir()
        part.rename(target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
