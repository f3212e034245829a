"""The miniature, made once."""

from __future__ import annotations

import pytest

from ume_eval.data import Annotations
from ume_eval.demo import build_demo


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Annotations:
    """The miniature's data directory under v2.1."""
    folder = tmp_path_factory.mktemp("demo") / "data"
    build_demo(folder)
    return Annotations(folder, folder / ".arrow")
