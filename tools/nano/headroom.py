"""What GRPO could gain on ume-nano: `python -m tools.nano.headroom --model DIR [--json FILE]`.

Samples eight answers for each picture and each name of seen concepts, rewards them as GRPO does,
16 pairs together, and reports how much better the best of a group is than its mean (what a policy
could reach by preferring its own best answers), how much rewards differ within a group, and the
share of groups in which all rewards are equal, from which nothing is learnt.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ume_nano
from tools.nano.evaluate import CACHE, NEW_TOKENS, SEEN_STYLE, Evaluation
from tools.nano.sources import UNSEEN_STYLE
from tools.nano.sprites import load_sprites
from ume_core.embedder import Sampling
from ume_core.items import Item, Text
from ume_core.results import EmbeddingResult
from ume_torch import TorchEmbedder
from ume_train.grpo.rewards import embedding_reward, format_reward

GROUP, PAIRS = 8, 16  # published: generations of a prompt, pairs whose rollouts are told apart


def measure(model: Path, style: str, pairs: int, seed: int) -> dict[str, Any]:
    """Headroom on `pairs` seen concepts drawn in a style."""
    sheet = load_sprites(CACHE)
    evaluation = Evaluation(TorchEmbedder(model), sheet, gen=True)
    rng = np.random.default_rng(seed)
    concepts = [int(c) for c in rng.choice(evaluation.pools["seen"], pairs, replace=False)]
    pictures = [evaluation.picture(c, style) for c in concepts]
    names = [Item((Text(sheet.concepts[c].label),)) for c in concepts]
    rewards: list[np.ndarray] = []
    forms: list[float] = []
    lengths: list[int] = []
    distinct: list[int] = []
    for start in range(0, pairs, PAIRS):
        rows = slice(start, start + PAIRS)
        sides = [_sampled(evaluation.engine, items[rows], seed + start) for items in
                 (pictures, names)]  # fmt: skip
        for own, other in (sides, sides[::-1]):
            rewards.append(_rewards(own, other))
            for record in own.records:
                forms += [format_reward(s.text, whole=True) for s in record.samples]
                lengths += [s.generated_tokens for s in record.samples]
                distinct.append(len({s.text for s in record.samples}))
        print(f"{start + PAIRS} of {pairs}", file=sys.stderr, flush=True)
    queries, targets = np.concatenate(rewards[::2]), np.concatenate(rewards[1::2])
    return {
        "model": str(model), "style": style, "pairs": pairs, "seed": seed,
        "group": GROUP, "pairs together": PAIRS,
        "pictures": _summary(queries), "names": _summary(targets),
        "rewards of pictures": np.round(queries.mean(axis=1), 4).tolist(),
        "rewards of names": np.round(targets.mean(axis=1), 4).tolist(),
        "answers of the published form, share": round(float(np.mean(forms)), 4),
        "tokens of an answer, mean": round(float(np.mean(lengths)), 1),
        "distinct answers of a group, mean": round(float(np.mean(distinct)), 2),
    }  # fmt: skip


def _sampled(engine: TorchEmbedder, items: list[Item], seed: int) -> EmbeddingResult:
    sampling = Sampling(n=GROUP, temperature=1.0, seed=seed)
    return engine.embed(items, mode="gen", sampling=sampling, max_new_tokens=NEW_TOKENS)


def _rewards(own: EmbeddingResult, other: EmbeddingResult) -> np.ndarray:
    """Rewards (pairs, group)."""

    def rows(result: EmbeddingResult) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        vectors = torch.from_numpy(np.asarray(result.gen_samples)).flatten(0, 1)
        usable = [s.status == "ok" for r in result.records for s in r.samples]
        pairs = torch.arange(len(result.records)).repeat_interleave(GROUP)
        return vectors, pairs, torch.tensor(usable)

    vectors, pairs, usable = rows(own)
    others, other_pairs, other_usable = rows(other)
    found = embedding_reward(
        vectors, others, pairs, other_pairs, usable=usable, other_usable=other_usable
    )
    return found.view(-1, GROUP).numpy()


def _summary(rewards: np.ndarray) -> dict[str, float]:
    """Of rewards (groups, rollouts)."""
    rng = np.random.default_rng(0)
    gain = rewards.max(axis=1) - rewards.mean(axis=1)
    again = [gain[rng.integers(0, len(gain), len(gain))].mean() for _ in range(2000)]
    spread = rewards.std(axis=1, ddof=1)
    return {
        "mean reward": round(float(rewards.mean()), 4),
        "best of 8 minus mean": round(float(gain.mean()), 4),
        "its 95 % interval, low": round(float(np.percentile(again, 2.5)), 4),
        "its 95 % interval, high": round(float(np.percentile(again, 97.5)), 4),
        "standard deviation within a group, mean": round(float(spread.mean()), 4),
        "groups without any, share": round(float((spread < 1e-6).mean()), 4),
    }


def main() -> None:
    """Measure, by default in a seen and in the unseen style."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=ume_nano.path())
    parser.add_argument("--pairs", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--style", nargs="+", default=[SEEN_STYLE, UNSEEN_STYLE])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found = [measure(args.model, s, args.pairs, args.seed) for s in args.style]
    shown = [{k: v for k, v in one.items() if not k.startswith("rewards")} for one in found]
    print(json.dumps(shown, indent=1))
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
