"""The command, in a process of its own."""

from __future__ import annotations

import re
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from ume_core.embedder import Embedder
from ume_server.testing import KEY, MODEL, equal


@contextmanager
def command(*arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`ume serve`, its log on a full disk, and its address."""
    with Path("/dev/full").open("w") as full:
        process = subprocess.Popen(
            [sys.executable, "-m", "ume_r1", "serve", *arguments, "--port", "0"],
            stdout=subprocess.PIPE, stderr=full, text=True,
        )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://[\d.]+:\d+", line)
        assert found, line
        yield found[0], process
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def test_the_command_serves_with_a_full_disk_and_stops_on_sigterm(
    tmp_path: Path, model: Embedder
) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text(f"# of the test\n{KEY}\n", "utf-8")
    with command(MODEL, "--engine", "torch", "--api-key-file", str(keys)) as (url, process):
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, 0))  # no file can grow any more
        headers = {"authorization": f"Bearer {KEY}"}
        with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
            answer = client.post("/v1/embeddings", json={"input": "a dog", "model": MODEL})
            equal([answer.json()["data"][0]["embedding"]], model.embed(["a dog"]).disc)
            with socket.create_connection(("127.0.0.1", client.base_url.port or 0)) as sock:
                sock.sendall(b"nonsense\r\n\r\n")  # which is logged
                assert b" 400 " in sock.recv(4096)
            answer = client.post("/v1/embeddings", json={"input": "a dog", "mode": "gen"})
            equal([answer.json()["data"][0]["embedding"]], model.embed(["a dog"], mode="gen").gen)
            listening = listening_sockets(process.pid)
            assert listening == {int(url.rsplit(":", 1)[1])}  # one, and no side ports
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) in (0, -signal.SIGTERM)


def listening_sockets(pid: int) -> set[int]:
    """TCP ports a process listens on."""
    inodes = set[str]()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        found = re.fullmatch(r"socket:\[(\d+)\]", str(entry.readlink()))
        if found:
            inodes.add(found[1])
    ports = set[int]()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text("ascii").splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                ports.add(int(fields[1].rsplit(":", 1)[1], 16))
    return ports


@pytest.mark.parametrize(
    ("keys", "arguments", "says"),
    [
        ("", (), "holds no key"),
        ("short\n", (), "short or not ASCII"),
        (KEY, ("--port", "99999"), "--port is 99999"),
        (KEY, ("--host", "203.0.113.7"), "cannot listen"),
        (KEY, ("--model", "ume-nano"), "two models"),
        (KEY, ("--max-waiting", "0"), "--max-waiting"),
    ],
)
def test_what_cannot_be_served_is_said_before_a_model_is_loaded(
    tmp_path: Path, keys: str, arguments: tuple[str, ...], says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from ume_r1.cli import main

    file = tmp_path / "keys.txt"
    file.write_text(keys, "utf-8")
    assert main(["serve", MODEL, "--api-key-file", str(file), *arguments]) == 2
    said = capsys.readouterr().err
    assert says in said and "Fix: " in said
