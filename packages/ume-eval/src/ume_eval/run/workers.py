"""Several processes, as `torchrun` starts them; they share a directory and wait for each other."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

from ume_core.errors import EngineUnavailable

_PATIENCE = timedelta(hours=12)  # the slowest chunk of a large task


@dataclass(frozen=True)
class Workers:
    """This process among the others.

    Attributes:
        rank: number of this process.
        count: number of all.
    """

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes scores and reports."""
        return self.rank == 0

    def wait(self) -> None:
        """Until every process is here."""
        if self.count > 1:
            import torch.distributed as dist

            dist.barrier()

    def close(self) -> None:
        """Leave the group."""
        if self.count > 1:
            import torch.distributed as dist

            dist.destroy_process_group()


def start_workers() -> Workers:
    """Join the processes of `torchrun`; one process where there is none.

    Raises:
        EngineUnavailable: torch is missing.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Workers()
    try:
        import torch.distributed as dist
    except ImportError as error:
        raise EngineUnavailable(
            "several processes need torch", fix="pip install 'torch>=2.9'"
        ) from error
    # gloo: the processes exchange nothing but "I am here", so that any device will do.
    dist.init_process_group("gloo", timeout=_PATIENCE)
    return Workers(dist.get_rank(), dist.get_world_size())


def device_of(device: str, workers: Workers) -> str:
    """The device of this process: with several, `auto` gives each its own GPU."""
    if workers.count == 1 or device != "auto":
        return device
    import torch

    local = os.environ.get("LOCAL_RANK", "0")
    return f"cuda:{local}" if torch.cuda.is_available() else "cpu"
