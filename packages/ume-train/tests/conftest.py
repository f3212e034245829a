"""What the tests share: small drawn data, and one thread."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import ume_nano
from ume_train.data.drawn import draw_data


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def nano() -> Path:
    """The embedded checkpoint."""
    return ume_nano.path()


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`sft.json`, `rl.json` and `media/`, 48 pairs of three sets; `few.json` and `two.json`."""
    folder = tmp_path_factory.mktemp("drawn")
    draw_data(folder, 48, 0)
    records = json.loads((folder / "sft.json").read_text("utf-8"))
    for name, count in (("few", 12), ("two", 2)):
        (folder / f"{name}.json").write_text(json.dumps(records[:count]), "utf-8")
    return folder
