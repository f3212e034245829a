"""Arguments of `ume index` beside `--ray`; apart, because Ray takes a second to import."""

from __future__ import annotations

from typing import Any

ROLES = {
    "id": "names the row (default: id, else the path)",
    "text": "holds its text (default: text)",
    "image": "holds the bytes of its picture (default: image)",
    "path": "holds the path or URL of its picture, clip or text, to be opened (default: none)",
}


def arguments(group: Any) -> None:
    """Add them to an argparse group."""
    for name, kind, what in (
        ("workers", int, "models loaded (default: what fits)"),
        ("worker-cpus", float, "of each worker (default: 4, or what fits)"),
        ("worker-gpus", float, "of each worker (default: 1 where there are any)"),
    ):
        group.add_argument(f"--{name}", type=kind, metavar="N", help=f"with --ray: {what}")
    for role, what in ROLES.items():
        group.add_argument(
            f"--{role}-column", metavar="NAME", help=f"of Parquet files: the column that {what}"
        )
