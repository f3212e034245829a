"""What `test_processes.py` runs on one and on two processes: `python two_processes.py DATA OUT`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch.distributed.fsdp import fully_shard

from ume_train.commands.stage import open_source
from ume_train.config import read_config
from ume_train.config.stages import GRPOConfig, SFTConfig, SFTLoss
from ume_train.forward import Policy
from ume_train.gather import gather, processes, rank, summed
from ume_train.grpo.trainer import GRPO
from ume_train.losses import info_nce
from ume_train.models import load_trained
from ume_train.sft import SFT

COMMON = ("run.steps=2", "run.save_every=2", "model.precision=float32", "run.device=cpu",
          "optimizer.name=adamw", "optimizer.lr=1e-3", "evaluate.every=0")  # fmt: skip


def main(data: Path, out: Path) -> None:
    """Both stages, hard negatives, and a pass with weights spread."""
    torch.set_num_threads(1)
    hard_negatives(out)
    files = f"data.files=[{{path: {data}/sft.json, media: {data}/media}}]"
    # File order: pictures, clips and words in every batch, and not the same on both processes.
    common = (*COMMON, "data.drawn=0", files, "data.order=file", "model.start=ume-nano")
    sft: Any = read_config("sft", "tiny", [*common, "batch.pairs=8", "batch.chunk=2",
                                           "loss.ce_pairs=2"])  # fmt: skip
    assert isinstance(sft, SFTConfig)
    run = SFT(sft, out / "sft", open_source("sft", sft, out / f"data-{rank()}"), 2)
    run.train()
    grpo: Any = read_config(
        "grpo", "tiny", [*common, "batch.pairs_per_reward=4", "batch.chunk=6",
                         "rollouts.generations=3", "rollouts.new_tokens=24"],
    )  # fmt: skip
    assert isinstance(grpo, GRPOConfig)
    GRPO(grpo, out / "grpo", open_source("grpo", grpo, out / f"data-{rank()}"), 2).train()
    if processes() > 1:
        spread(run)


def hard_negatives(out: Path) -> None:
    """InfoNCE where every row's near miss stands on the other process; writes what it found."""
    torch.manual_seed(0)
    queries = torch.randn(8, 16)
    queries[4:] = queries[:4] + 0.3 * torch.randn(4, 16)
    targets = queries + 0.1 * torch.randn(8, 16)
    share = 8 // processes()
    own = slice(rank() * share, (rank() + 1) * share)
    mine = queries[own].clone().requires_grad_()
    loss = info_nce(mine, targets[own], SFTLoss(temperature=0.02))
    loss.backward()
    assert mine.grad is not None
    found = {
        "loss": float(summed(loss)) / processes(),
        "gradients": (gather(mine.grad) / processes()).tolist(),
        # as if rows of the two processes were taken for each other's
        "crossed": float(info_nce(queries, targets.roll(4, 0), SFTLoss(temperature=0.02)))
        if processes() == 1 else None,
    }  # fmt: skip
    if rank() == 0:
        out.mkdir(parents=True, exist_ok=True)
        (out / "hard-negatives.json").write_text(json.dumps(found), "utf-8")


def spread(run: SFT) -> None:
    """FSDP2's `fully_shard` on the pass: gradients are those of whole weights."""
    settings = run.config.model
    examples = run.source.batch(0)
    rows = run.render(
        [examples.queries[rank()], examples.queries[2 + rank()]], answers=True
    )  # another kind of media on each process

    def gradients(sharded: bool) -> dict[str, torch.Tensor]:
        model = load_trained(run.checkpoint, settings).model
        policy = Policy(model, run.render.tokenizer.special.pad, bf16=False, even=True)
        if sharded:
            for layer in (*model.model.language_model.layers, *model.model.visual.blocks):
                fully_shard(layer)
            fully_shard(policy)
        found = policy(rows)
        (found.disc.square().sum() + found.gen.square().sum() + found.log_probs.sum()).backward()
        out: dict[str, torch.Tensor] = {}
        for name, weight in policy.named_parameters():
            if weight.grad is None:
                continue
            grad: Any = weight.grad
            if sharded:
                out[name] = grad.full_tensor()
            else:
                torch.distributed.all_reduce(grad)
                out[name] = grad / processes()
        return out

    whole, parts = gradients(False), gradients(True)
    assert whole.keys() == parts.keys() and len(whole) > 20
    for name, grad in whole.items():
        torch.testing.assert_close(
            parts[name], grad, rtol=1e-3, atol=1e-3 * float(grad.abs().max())
        )
    if rank() == 0:
        print("spread gradients are whole ones")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
    os._exit(0)  # gloo's threads need not end in order
