"""For engines' tests: the contract kit and the fake embedder."""

from ume_core.testing.contract import EmbedderContract
from ume_core.testing.fake import FakeEmbedder

__all__ = ["EmbedderContract", "FakeEmbedder"]
