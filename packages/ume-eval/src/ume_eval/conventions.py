"""The conventions that published numbers were measured with; the only place that chooses them.

One-line request, media first, the blank picture before text-only inputs, frame lists by
qwen-vl-utils 0.0.11's rule, pictures of 784 to 2,359,296 pixels: UME-R1's
`src/eval/VLM2Vec/src/data/collator/eval_collator.py`. mteb 2.26.24's wrapper uses the same request.
"""

from __future__ import annotations

from typing import Any

from ume_core import Signature


def official() -> tuple[str, dict[str, Any]]:
    """The conventions' name for score files, and the `LoadOptions` that ask for them."""
    return "official", {"conventions": "official"}


def stated(name: str, signature: Signature) -> dict[str, Any]:
    """What a score file says about them: the name, and every choice of the signature."""
    hidden = {"model", "weights", "mode", "dimensions", "aligned", "dtype", "thinking"}
    return {"name": name, **{k: v for k, v in signature.to_dict().items() if k not in hidden}}
