"""LangChain's own standard suites for embeddings, unit and integration."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("langchain_tests", reason="pip install 'langchain-tests>=1.1,<2'")

from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests

from langchain_ume import UmeEmbeddings


class TestUmeEmbeddingsUnit(EmbeddingsUnitTests):
    @property
    def embeddings_class(self) -> type[UmeEmbeddings]:
        return UmeEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": "ume-nano"}


class TestUmeEmbeddingsIntegration(EmbeddingsIntegrationTests):
    @property
    def embeddings_class(self) -> type[UmeEmbeddings]:
        return UmeEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": "ume-nano", "mode": "disc"}
