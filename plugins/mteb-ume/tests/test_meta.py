"""Metadata that mteb writes beside results."""

from __future__ import annotations

from typing import Any

import mteb
import pytest

from mteb_ume import UmeEncoder, ume_r1_2b, ume_r1_2b_disc, ume_r1_7b, ume_r1_7b_disc
from ume_core.testing import FakeEmbedder


@pytest.mark.parametrize(
    ("meta", "parameters", "dimensions", "mode"),
    [
        (ume_r1_2b, 2_208_985_600, 1536, "gen"),
        (ume_r1_2b_disc, 2_208_985_600, 1536, "disc"),
        (ume_r1_7b, 8_291_375_616, 3584, "gen"),
        (ume_r1_7b_disc, 8_291_375_616, 3584, "disc"),
    ],
)
def test_published_models_have_full_metadata(
    meta: Any, parameters: int, dimensions: int, mode: str
) -> None:
    assert meta.n_parameters == parameters
    assert meta.embed_dim == dimensions
    assert meta.license == "apache-2.0"
    assert meta.open_weights
    assert meta.release_date == "2025-11-10"
    assert meta.max_tokens == 32768
    assert "MSRVTTT2V" in meta.training_datasets  # so that zero-shot marks are right
    assert meta.loader is UmeEncoder
    assert meta.experiment_kwargs == {"mode": mode}


def test_mtebs_own_metadata_stays_as_it_is() -> None:
    theirs = mteb.get_model_meta("zhibinlan/UME-R1-2B")
    assert theirs.loader is not UmeEncoder
    assert theirs.revision == ume_r1_2b.revision
    assert theirs.experiment_kwargs is None


def test_the_embedded_model_states_its_facts_and_its_settings() -> None:
    encoder = UmeEncoder("ume-nano", mode="gen", max_new_tokens=64)
    meta: Any = encoder.mteb_model_meta
    assert meta.name == "ume/ume-nano-gen"
    assert meta.n_parameters == 5_220_576
    assert meta.embed_dim == 192
    assert meta.training_datasets == set()
    assert meta.license == "apache-2.0"
    assert meta.revision == encoder.embedder.signature("gen").digest
    assert meta.experiment_kwargs == {"max_new_tokens": 64}
    assert meta.loader is not None
    assert meta.loader(meta.name, revision=meta.revision) is encoder


def test_facts_of_other_checkpoints_stay_empty() -> None:
    meta: Any = UmeEncoder(FakeEmbedder()).mteb_model_meta
    assert meta.n_parameters is None
    assert meta.training_datasets is None


def test_placeholders_beside_media_are_dropped_as_by_the_official_collator() -> None:
    import numpy as np

    encoder = UmeEncoder("ume-nano")
    picture = np.full((84, 84, 3), 90, dtype=np.uint8)
    batch: Any = [{"text": [" <|image_pad|> a dog\n", "a dog"], "image": [picture, picture]}]
    task: Any = None
    with_mark, without = encoder.encode(batch, task_metadata=task, hf_split="", hf_subset="")
    assert np.abs(with_mark - without).max() < 1e-6
