"""What `test_spread.py` starts through accelerate: `python spread_weights.py DATA OUT`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import accelerate.accelerator
import accelerate.state
import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

import ume_train.run
from ume_train.commands.stage import open_source
from ume_train.config import read_config
from ume_train.gather import rank
from ume_train.grpo.trainer import GRPO
from ume_train.sft import SFT

STEPS = 4


class OnCPU(AcceleratorState):
    """accelerate's state, which takes no notice of FSDP on a CPU; all that follows is its own."""

    def __init__(self, *args: Any, fsdp_plugin: Any = None, **rest: Any) -> None:
        super().__init__(*args, fsdp_plugin=fsdp_plugin, **rest)
        if fsdp_plugin is not None:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
            PartialState().distributed_type = DistributedType.FSDP  # shared by all instances


class OnGloo(PartialState):
    """accelerate's state, which starts DeepSpeed among GPUs alone; all that follows is its own."""

    def _prepare_backend(
        self, cpu: bool = False, sagemaker_dp: bool = False, backend: str | None = None
    ) -> tuple[str, DistributedType]:
        del cpu, sagemaker_dp, backend
        return "gloo", DistributedType.MULTI_GPU


def start_deepspeed_on_cpus() -> None:
    """To be called before accelerate knows its processes."""
    import deepspeed.comm.comm  # noqa: F401 # pyright: ignore[reportMissingImports]

    accelerate.state.PartialState = OnGloo  # type: ignore[misc]
    ume_train.run.on_cpu = lambda _: False  # type: ignore[assignment]
    # Shared memory for CPUs, which gloo does without: minutes of compiling.
    sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # type: ignore[attr-defined]


def main(data: Path, out: Path) -> None:
    """SFT with GradCache and every kind of media in a batch; then, where spread, a GRPO step."""
    torch.set_num_threads(1)
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        start_deepspeed_on_cpus()
    accelerate.accelerator.AcceleratorState = OnCPU  # type: ignore[misc]
    common = ["model.precision=float32", "run.device=cpu", "optimizer.name=adamw",
              "optimizer.lr=1e-4", "data.drawn=0", "data.order=file", "evaluate.every=0",
              "model.start=ume-nano", "run.save_dtype=float32", "run.save_every=1",
              f"data.files=[{{path: {data}/few.json, media: {data}/media}}]"]  # fmt: skip
    sft: Any = read_config("sft", "tiny", [*common, "batch.pairs=4", "batch.chunk=1"])
    run = SFT(sft, out / "sft", open_source("sft", sft, out / f"data-{rank()}"), STEPS)
    run.train()
    if run.accelerator.distributed_type is DistributedType.NO:
        return
    grpo: Any = read_config(
        "grpo", "tiny", [*common, "batch.pairs_per_reward=2", "rollouts.generations=2",
                         "rollouts.new_tokens=16"],
    )  # fmt: skip
    GRPO(grpo, out / "grpo", open_source("grpo", grpo, out / f"data-{rank()}"), 1).train()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
    os._exit(0)  # gloo's threads need not end in order
