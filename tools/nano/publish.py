"""Turn a finished run into the embedded model: `python -m tools.nano.publish [--run DIR]`.

`--average DIR` takes the mean of the run's weights and of the checkpoint's in DIR that it started
from: each run ends somewhere else around a good place, and between two of them is often better than
either (stochastic weight averaging, Izmailov et al., 2018).

Writes bfloat16 weights beside tokenizer, settings and exported graphs into packages/ume-nano,
measures that very directory with `tools.nano.evaluate`, and writes the model card with the numbers.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import ume_nano
from tools.nano import compare, graphs
from tools.nano.evaluate import CACHE, ROOT, Cell, table
from tools.nano.sources import SOURCES
from ume_qwen.checkpoint import find_checkpoint
from ume_torch.checkpoint import load_model, save_weights

CARD = Path(__file__).with_name("card.md")
PROVENANCE = ROOT / "packages" / "ume-nano" / "provenance"  # beside the wheel's sources
NUMBERS = PROVENANCE / "evaluation.json"
BEFORE = PROVENANCE / "evaluation-before.json"  # the mean of the third and fourth run
# Goals of the model, as (concepts, style, query, mode) -> recall@5 in percent, text to image.
GOALS = {
    ("unseen", "unseen", "name", "disc"): 50.0,
    ("seen", "unseen", "name", "disc"): 65.0,
    ("composed scenes", "seen", "caption", "disc"): 90.0,
}


def main() -> None:
    """Publish, measure, describe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=CACHE / "run")
    parser.add_argument("--average", type=Path, help="a checkpoint to take the mean with")
    parser.add_argument("--card-only", action="store_true", help="from stored numbers")
    args = parser.parse_args()
    target = ume_nano.path()
    if not args.card_only:
        _weights(args.run, target, args.average)
        graphs.main()
        command = [sys.executable, "-m", "tools.nano.evaluate", "--json", str(NUMBERS)]
        subprocess.run(command, cwd=ROOT, check=True)
        ablation = [sys.executable, "-m", "tools.nano.ablation", "--json", str(NUMBERS)]
        subprocess.run(ablation, cwd=ROOT, check=True)
    found = json.loads(NUMBERS.read_text("utf-8"))
    (target / "README.md").write_text(card(found), "utf-8")


def _weights(run: Path, target: Path, average: Path | None) -> None:
    source = run / "model"
    model = load_model(find_checkpoint(source), "cpu", "float32", "sdpa")
    if average is not None:
        other = load_model(find_checkpoint(average), "cpu", "float32", "sdpa").state_dict()
        model.load_state_dict({k: (v + other[k]) / 2 for k, v in model.state_dict().items()})
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors", "*.tmp"))
    config = json.loads((target / "config.json").read_text("utf-8"))
    text = json.dumps(config | {"torch_dtype": "bfloat16"}, indent=2)
    (target / "config.json").write_text(text + "\n", "utf-8")
    save_weights(model, target, torch.bfloat16)
    shutil.copy(run / "log.jsonl", PROVENANCE / "training-log-fifth.jsonl")


def against_before() -> str:
    """Rows of the comparison with the model that was published before: pooled cells alone."""
    rows = compare.table(compare.read(BEFORE), compare.read(NUMBERS)).splitlines()[2:]
    return "\n".join(r for r in rows if r.startswith("| all"))


def card(found: dict[str, Any]) -> str:
    """The model card."""
    cells = [Cell(**c) for c in found["cells"]]
    goals = [
        f"| {c.concepts if c.concepts.startswith('composed') else c.concepts + ' concepts'}, "
        f"{c.style} style | {c.pool:,} | {c.recall5} [{c.low5}, {c.high5}] | {goal:.0f} |"
        for c in cells
        if c.direction == "text to image"
        and (goal := GOALS.get((c.concepts, c.style, c.query, c.mode))) is not None
    ]
    sources = [f"| {s.package} {s.version} | {s.what} | {s.licence} | {s.use} |" for s in SOURCES]
    generation = [f"| {name} | {value} |" for name, value in found["generation"].items()]
    examples = [
        f"| {e['cell']} | {e['picture of']} | {e['thinking']} | {e['summary']} |"
        for e in found["examples"]
    ]

    def recall(*key: str) -> float:
        """recall@5 of one cell: concepts, style, direction, query, mode."""
        return next(
            c.recall5 for c in cells if (c.concepts, c.style, c.direction, c.query, c.mode) == key
        )

    words = "text to image"
    same_picture = recall("unseen", "unseen", "image to image", "picture in the seen style", "disc")
    at_end = (
        recall("seen", "unseen", words, "name", "disc"),
        recall("unseen", "unseen", words, "name", "disc"),
        recall("composed scenes", "seen", words, "caption", "disc"),
        same_picture,
    )
    names, thinking = found["ablation"]["words"], found["ablation"]["thinking"]
    size = sum(f.stat().st_size for f in ume_nano.path().iterdir() if f.is_file()) / 1e6
    return CARD.read_text("utf-8").format(
        size=f"{size:.1f}",
        at_end=" | ".join(map(str, at_end)),
        pictures=same_picture,
        own_seen=names["seen concepts, its own text side"],
        own_unseen=names["unseen concepts, its own text side"],
        teacher_seen=names["seen concepts, names through MiniLM"],
        teacher_unseen=names["unseen concepts, names through MiniLM"],
        gen_none=thinking["gen, thinking none"],
        gen_skip=thinking["gen, thinking skip"],
        keywords=recall("unseen", "unseen", words, "keywords", "disc"),
        gen=recall("seen", "unseen", words, "name", "gen"),
        disc=recall("seen", "unseen", words, "name", "disc"),
        goals="\n".join(goals),
        against=against_before(),
        cells=table(cells),
        generation="\n".join(generation),
        examples="\n".join(examples),
        sources="\n".join(sources),
    )


if __name__ == "__main__":
    main()
