"""The tour that `./tools/quickstart` gives, command by command.

The rates in its titles are those of `python -m tools.nano.rates --gen`.
"""

from __future__ import annotations

import hashlib
import os
import selectors
import shlex
import subprocess
import sys
import time
from pathlib import Path

import ume_nano
from ume_r1.index.description import FORMAT

ROOT = Path(__file__).resolve().parents[1]
GALLERY = "tools/gallery"
# One index per version of the embedded model, whose vectors do not compare, and of the format.
_WEIGHTS = hashlib.sha256((ume_nano.path() / "model.safetensors").read_bytes()).hexdigest()[:8]
INDEX = f".cache/quickstart/index-{FORMAT}-{_WEIGHTS}"
PAGE = ".cache/quickstart/search.html"

TOUR: tuple[tuple[str, list[str]], ...] = (
    (
        "Index a gallery of drawings and clips, in both modes",
        ["index", GALLERY, "--to", INDEX, "--mode", "both"],
    ),
    (
        "Find by words: 74 of the 76 files come first for their own name",
        ["search", INDEX, "a", "red", "apple", "--top", "3"],
    ),
    ("Find by picture", ["search", INDEX, "--image", f"{GALLERY}/bus.png", "--top", "3"]),
    (
        "Find by clip: for 3 of 6 clips the next picture shows the same thing",
        ["search", INDEX, "--video", f"{GALLERY}/red-apple-growing.mp4", "--top", "3"],
    ),
    (
        "Find with thinking, and write a page: 29 of the 76 summaries are the file's name",
        ["search", INDEX, "grapes, fruit", "--mode", "gen", "--top", "4", "--html", PAGE],
    ),
)


def main(setup_seconds: int = 0, *, ume: str = ".venv/bin/ume", silence: float = 4.0) -> int:
    """Run the tour, each command as a user would: in a process of its own.

    Args:
        setup_seconds: what setting up took before; part of the time told at the end.
        ume: the command.
        silence: seconds without output after which a line says how long it has been.

    Returns:
        The first failing command's exit status, else 0.
    """
    (ROOT / PAGE).parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    for title, arguments in TOUR:
        command = [ume, *arguments]
        print(f"\n# {title}\n$ {shlex.join(command)}", flush=True)
        status = run(command, silence)
        if status:
            return status
    seconds = setup_seconds + time.monotonic() - began
    print(f"\nDone in {seconds:.0f} s, {setup_seconds} s of which set things up.")
    print(f"Open {ROOT / PAGE} in a browser,")
    print("or index a folder of your own: .venv/bin/ume index FOLDER --to INDEX")
    return 0


def run(command: list[str], silence: float) -> int:
    """Run a command from the project's root, show its output, and a line when it is silent."""
    began = time.monotonic()
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process, selectors.DefaultSelector() as selector:  # fmt: skip
        assert process.stdout is not None
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if not selector.select(silence):
                print(f"  {time.monotonic() - began:.0f} s ...", flush=True)
                continue
            chunk = os.read(process.stdout.fileno(), 65536)
            if not chunk:
                break
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
    return process.returncode


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
