"""The fake embedder passes the contract kit, so the kit can pass."""

from __future__ import annotations

import pytest

from ume_core.testing import EmbedderContract, FakeEmbedder


class TestFake(EmbedderContract):
    @pytest.fixture(scope="class")
    def embedder(self) -> FakeEmbedder:
        return FakeEmbedder()


class TestFakeDiscOnly(EmbedderContract):
    @pytest.fixture(scope="class")
    def embedder(self) -> FakeEmbedder:
        return FakeEmbedder(modes=frozenset({"disc"}))
