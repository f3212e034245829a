"""The contract kit against every engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import ume_core
import ume_nano
from ume_core.by_mode import ByMode
from ume_core.embedder import Embedder
from ume_core.testing import EmbedderContract
from ume_torch import TorchEmbedder


class TestTorchQwen2(EmbedderContract):
    @pytest.fixture(scope="class")
    def embedder(self, checkpoint: Callable[[str], Path]) -> TorchEmbedder:
        return TorchEmbedder(checkpoint("qwen2_vl"))


class TestTorchQwen25(EmbedderContract):
    @pytest.fixture(scope="class")
    def embedder(self, checkpoint: Callable[[str], Path]) -> TorchEmbedder:
        return TorchEmbedder(checkpoint("qwen2_5_vl"))


class TestTorchNano(EmbedderContract):
    @pytest.fixture(scope="class")
    def embedder(self) -> TorchEmbedder:
        return TorchEmbedder(ume_nano.path())


class TestNanoOnTwoEngines(EmbedderContract):
    @pytest.fixture(scope="class")
    def embedder(self) -> Embedder:
        pytest.importorskip("onnxruntime")
        loaded = ume_core.load("ume-nano", device="cpu")
        assert isinstance(loaded, ByMode)
        return loaded
