"""What mteb writes beside results: full metadata of the published models and of ume-nano.

Facts of the published models (parameters, licence, training sets, citation) are mteb's own, so
that zero-shot marks and tables are as with its wrapper.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mteb.models.model_implementations import ume_r1 as upstream
from mteb.models.model_meta import ModelMeta, ScoringFunction

from ume_core import Embedder
from ume_core.signature import Mode

_PUBLISHED: dict[str, ModelMeta] = {
    "zhibinlan/UME-R1-2B": upstream.ume_r1_2b,
    "zhibinlan/UME-R1-7B": upstream.ume_r1_7b,
}
_ALIASES = {
    "ume-r1": "zhibinlan/UME-R1-2B",
    "ume-r1-2b": "zhibinlan/UME-R1-2B",
    "ume-r1-7b": "zhibinlan/UME-R1-7B",
}
# Its model card, and the sizes in its safetensors header.
_NANO: dict[str, Any] = {
    "n_parameters": 5_220_576,
    "n_embedding_parameters": 1_179_648,
    "memory_usage_mb": 20,  # float32
    "max_tokens": 32_768,
    "license": "apache-2.0",
    "public_training_data": "https://github.com/iconify/icon-sets",
    "training_datasets": set(),  # pictograms; no data set of mteb
    "release_date": "2026-11-24",
}


def published_meta(name: str, mode: Mode, loader: Callable[..., Any]) -> ModelMeta:
    """Metadata of a published model under this project's engines.

    Args:
        name: its hub id.
        mode: `disc` or `gen`.
        loader: called with the name, `revision`, and the experiment's arguments.
    """
    return _PUBLISHED[name].model_copy(
        update={
            "loader": loader,
            # Arguments of the loader, and mteb's folder of results: apart from its own wrapper's.
            "experiment_kwargs": {"mode": mode},
            "use_instructions": False,
            "extra_requirements_groups": None,
            "output_dtypes": None,  # float32, whatever the weights are
        }
    )


def model_meta(
    embedder: Embedder,
    mode: Mode,
    *,
    loader: Callable[..., Any],
    instructions: bool = False,
    max_new_tokens: int | None = None,
) -> ModelMeta:
    """Metadata of a loaded embedder, so that results of different settings do not mix.

    The name holds the mode, the revision is the signature's digest, and settings that the
    signature does not cover are experiment arguments. Facts are known for the published models and
    ume-nano; of other checkpoints they stay empty.

    Args:
        embedder: what is evaluated.
        mode: `disc` or `gen`.
        loader: returns the encoder, whatever it is called with.
        instructions: whether queries get their task's instruction.
        max_new_tokens: budget of an answer; None takes the default.
    """
    signature = embedder.signature(mode)
    settings: dict[str, Any] = {"instructions": instructions, "max_new_tokens": max_new_tokens}
    identity: dict[str, Any] = {
        "loader": loader,
        "revision": signature.digest,
        "embed_dim": embedder.dimensions,
        "use_instructions": instructions,
        "experiment_kwargs": {k: v for k, v in settings.items() if v} or None,
        "extra_requirements_groups": None,
        "output_dtypes": None,
    }
    base = _PUBLISHED.get(_ALIASES.get(signature.model, signature.model))
    if base is not None:
        return base.model_copy(update={**identity, "name": f"{base.name}-{mode}"})
    name = signature.model if "/" in signature.model else f"ume/{signature.model}"
    facts: dict[str, Any] = {
        "release_date": None,
        "n_parameters": None,
        "memory_usage_mb": None,
        "max_tokens": None,
        "license": None,
        "public_training_data": None,
        "training_datasets": None,
        "public_training_code": None,
        "open_weights": True,
        "languages": ["eng-Latn"],
        "modalities": ["text", "image", "video"],
        "framework": ["PyTorch"] if "torch" in embedder.name else [],
        "similarity_fn_name": ScoringFunction.COSINE,
    }
    facts |= _NANO if signature.model == "ume-nano" else {}
    return ModelMeta(**{**facts, **identity, "name": f"{name}-{mode}"})
