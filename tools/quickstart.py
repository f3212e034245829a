"""The tour that `./tools/quickstart` gives, command by command."""

from __future__ import annotations

import hashlib
import shlex
import sys
import time
from pathlib import Path

import ume_nano
from ume_r1.cli import main as ume
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
    ("Find by words", ["search", INDEX, "a red apple", "--top", "3"]),
    ("Find by picture", ["search", INDEX, "--image", f"{GALLERY}/dog.png", "--top", "3"]),
    ("Find by clip", ["search", INDEX, "--video", f"{GALLERY}/dog-moving-left.mp4", "--top", "3"]),
    (
        "Find with thinking, and write a page",
        ["search", INDEX, "bicycle, bike, vehicle", "--mode", "gen", "--top", "8", "--html", PAGE],
    ),
)


def main() -> int:
    """Run the tour; the first failing command's status."""
    (ROOT / PAGE).parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    for title, arguments in TOUR:
        print(f"\n# {title}\n$ .venv/bin/ume {shlex.join(arguments)}", flush=True)
        status = ume(arguments)
        if status:
            return status
    print(f"\nDone in {time.monotonic() - began:.0f} s. Open {ROOT / PAGE} in a browser,")
    print("or index a folder of your own: .venv/bin/ume index FOLDER --to INDEX")
    return 0


if __name__ == "__main__":
    sys.exit(main())
