"""Names of a package that are imported when they are first used (PEP 562)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(
    package: str, modules: Mapping[str, str], *, distribution: str
) -> Callable[[str], Any]:
    """The `__getattr__` of a package whose names live in modules that cost time to import.

    Args:
        package: the package's `__name__`.
        modules: module -> the names that are imported from it, with spaces between.
        distribution: whose version `__version__` is.

    Returns:
        a function that imports what it is asked for, and keeps it in the package.
    """
    homes = {name: module for module, names in modules.items() for name in names.split()}

    def get(name: str) -> Any:
        if name == "__version__":
            from importlib.metadata import version

            value: Any = version(distribution)
        elif name in homes:
            value = getattr(import_module(homes[name]), name)
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(sys.modules[package], name, value)
        return value

    return get
