"""What this distribution registers."""

from __future__ import annotations

from ume_core.hookspecs import ExporterSpec, hookimpl


@hookimpl
def ume_exporters() -> list[ExporterSpec]:
    """Directories that plain sentence-transformers loads."""
    return [
        ExporterSpec(
            name="sentence-transformers",
            description="a directory for SentenceTransformer(...), disc, no plugin needed there",
            run="ume_sentence_transformers.native:run",
        )
    ]
