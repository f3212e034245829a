"""Several sampled answers of one item: pass@k, and one vector out of n."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ume_core.errors import InvalidOption

Floats = npt.NDArray[np.floating[Any]]


def pass_at_k(hits: npt.NDArray[np.integer[Any]], samples: int, k: int) -> npt.NDArray[np.float64]:
    """Probability that one of k drawn samples is right, unbiased: 1 - C(n-c, k) / C(n, k).

    Source: Chen et al. 2021, arXiv 2107.03374, section 2.1.

    Args:
        hits: right samples of each query, shape (queries,).
        samples: n.
        k: at most n.

    Raises:
        InvalidOption: k is not between 1 and n, or a count is not between 0 and n.
    """
    if not 1 <= k <= samples:
        raise InvalidOption(f"k is {k} of {samples} samples", fix=f"use 1 to {samples}")
    wrong = samples - np.asarray(hits)
    if (wrong < 0).any() or (wrong > samples).any():
        raise InvalidOption("a count of hits is not between 0 and n", fix="count samples, not k")
    factors = np.arange(samples - k + 1, samples + 1)
    # C(n-c, k) / C(n, k) as a product of k factors; one of them is 0 if n - c < k.
    ratios = np.clip((factors[None, :] - (samples - wrong)[:, None]) / factors, 0, None)
    return 1.0 - ratios.prod(axis=1)


def mean_pool(samples: Floats) -> Floats:
    """Renormalised mean, (items, n, dimensions) to (items, dimensions)."""
    return _unit(samples.mean(axis=1))


def medoid(samples: Floats) -> Floats:
    """Of each item's samples the one with the largest mean cosine to the others."""
    cosines = np.einsum("ind,imd->inm", samples, samples).sum(axis=2)
    return samples[np.arange(len(samples)), cosines.argmax(axis=1)]


def confidence_pool(samples: Floats, confidence: Floats) -> Floats:
    """Renormalised mean, weighted by the softmax of each sample's confidence.

    Args:
        samples: shape (items, n, dimensions).
        confidence: mean log-probability of each sample's tokens, shape (items, n).
    """
    weights = np.exp(confidence - confidence.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    return _unit((samples * weights[:, :, None]).sum(axis=1))


def _unit(vectors: Floats) -> Floats:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
