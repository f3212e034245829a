"""Servers in processes of their own, on loopback."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

_START_SECONDS = 600.0  # vLLM's take a minute where nothing else runs
# What vLLM's build for CPUs runs with here; nothing else reads these.
_VLLM = {
    "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}  # fmt: skip


@dataclass
class Served:
    """A server that runs."""

    port: int
    process: subprocess.Popen[bytes]

    @property
    def rss(self) -> int:
        """Bytes of memory."""
        return psutil.Process(self.process.pid).memory_info().rss

    def kill(self) -> None:
        """As the kernel does when memory is short."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def served(
    log: Path, *command: str, port: int | None = None, python: str = sys.executable
) -> Iterator[Served]:
    """Start a server and wait until it answers; `{port}` in the command is its port.

    One thread computes: with two, OpenMP's barriers wait for cores that clients are on.

    Args:
        log: where its words go.
        command: Python's arguments.
        port: the port, or any that is free.
        python: the interpreter.
    """
    port = port or free_port()
    with log.open("ab") as out:
        process = subprocess.Popen(
            [python, *(part.replace("{port}", str(port)) for part in command)],
            stdout=out, stderr=out, env=os.environ | {"OMP_NUM_THREADS": "1"} | _VLLM,
        )  # fmt: skip
    found = Served(port, process)
    try:
        end = time.monotonic() + _START_SECONDS
        while True:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"no server: see {log}")
            try:
                httpx.get(f"http://127.0.0.1:{port}/health", timeout=5)  # any answer will do
                break
            except httpx.HTTPError:
                time.sleep(0.2)
        yield found
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_port() -> int:
    """One that is not in use."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


OURS = ("-m", "ume_r1", "serve", "ume-nano", "--engine", "torch", "--device", "cpu",
        "--dtype", "float32", "--port", "{port}")  # fmt: skip
NAIVE = ("-m", "tools.load.naive", "{port}")
VLLM_PYTHON = ".venv-vllm/bin/python"  # of `tools/setup vllm`


def vllm(model: Path, runner: str) -> tuple[str, ...]:
    """vLLM's own server.

    Args:
        model: the checkpoint's directory.
        runner: `pooling` or `generate`.
    """
    pooling = ("--pooler-config", '{"task": "embed", "pooling_type": "LAST"}')
    return (
        "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--runner", runner,
        "--served-model-name", "ume-nano", "--dtype", "float32", "--enforce-eager",
        "--host", "127.0.0.1", "--port", "{port}", "--max-model-len", "1024",
        *(pooling if runner == "pooling" else ()),
    )  # fmt: skip


def processor() -> str:
    """What it was measured on."""
    text = Path("/proc/cpuinfo").read_text("utf-8")
    name = re.search(r"model name\s*: (.*)", text)
    return f"{os.cpu_count()} x {name[1] if name else 'CPU'}"
