"""The fake embedder passes the contract kit, so the kit can pass."""

from __future__ import annotations

import pytest

from ume_core import InvalidOption, similarity
from ume_core.testing import EmbedderContract, FakeEmbedder


class TestFake(EmbedderContract):
    registered = False

    @pytest.fixture(scope="class")
    def embedder(self) -> FakeEmbedder:
        return FakeEmbedder()


class TestFakeDiscOnly(EmbedderContract):
    registered = False

    @pytest.fixture(scope="class")
    def embedder(self) -> FakeEmbedder:
        return FakeEmbedder(modes=frozenset({"disc"}))


def test_vectors_that_were_not_asked_for_are_named_with_the_fix() -> None:
    disc = FakeEmbedder().embed(["a"])
    with pytest.raises(InvalidOption, match=r"no 'gen' vectors.*embed with mode='gen' or 'both'"):
        similarity(disc, disc, mode="gen")
    with pytest.raises(InvalidOption, match="name disc or gen"):
        disc.vectors("both")
