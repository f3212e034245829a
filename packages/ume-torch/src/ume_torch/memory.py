"""How much memory there is, and what to do when there is not enough."""

from __future__ import annotations

from pathlib import Path

import torch

_WORDS = (
    "can't allocate memory", "not enough memory", "std::bad_alloc", "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)  # fmt: skip


def free_bytes(device: str) -> int:
    """Bytes that can still be allocated: of the GPU, or of the machine and its control group."""
    if torch.device(device).type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # What torch holds but does not use is free to us too.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    found = [_meminfo()]
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes",
         "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):  # fmt: skip
        try:
            cached = _file_cache(Path(used).with_name("memory.stat"))
            found.append(int(Path(limit).read_text()) - int(Path(used).read_text()) + cached)
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return max(0, min(found))


def _file_cache(stat: Path) -> int:
    """Bytes of a control group that the kernel gives back on demand, such as files just read."""
    lines = dict(line.split() for line in stat.read_text().splitlines())
    return int(lines.get("total_inactive_file", lines.get("inactive_file", 0)))


def _meminfo() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # not Linux: assume little rather than ask for much
        return 4 << 30
    values = {line.split(":")[0]: line.split()[1] for line in lines}
    return int(values.get("MemAvailable", 4 << 20)) * 1024


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed; torch's CPU allocator and cuBLAS say so in words only."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(w in str(error) for w in _WORDS)


def release(device: str) -> None:
    """Give cached blocks back before another try."""
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
