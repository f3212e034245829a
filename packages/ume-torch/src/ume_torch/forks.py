"""What torch does not survive: being forked after it computed with threads, or on CUDA.

The threads of OpenMP's pool do not exist in a forked child, and the first parallel operation there
waits for them for ever (https://github.com/pytorch/pytorch/issues/17199); CUDA's state cannot be
carried over either. Both are noticed here and said. With one thread everything goes on working.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from ume_core.errors import EngineUnavailable
from ume_core.forks import SPAWN, gpu_was_forked


@dataclass
class _Process:
    """What torch did here, and what its parents had done when this process was forked."""

    threads: bool = False
    cuda: bool = False
    parent_threads: bool = False
    parent_cuda: bool = False


_process = _Process()


def after_fork() -> None:
    """What a forked child inherits: its parent's use of threads and of CUDA."""
    _process.parent_threads |= _process.threads
    _process.parent_cuda |= _process.cuda
    _process.threads = _process.cuda = False


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=after_fork)


def check_process(device: str) -> None:
    """To be called before anything is computed on a device.

    Raises:
        EngineUnavailable: in a forked child where it would hang or fail.
    """
    on_cuda = torch.device(device).type == "cuda"
    if _process.parent_cuda and on_cuda:
        raise gpu_was_forked()
    threads = torch.get_num_threads()
    if _process.parent_threads and threads > 1:
        raise EngineUnavailable(
            f"this process was forked after its parent had computed with several threads, and the "
            f"{threads} that torch is set to would wait for them for ever",
            fix=f"{SPAWN}, load the model only in the children, or call torch.set_num_threads(1) "
            "in the child first",
        )
    _process.threads |= threads > 1
    _process.cuda |= on_cuda
