"""The command line: `python -m tools.fuzz`. Exit status 1 where something was found."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from tools.fuzz.judge import FAMILIES, Inputs, Verdict, engine, judge
from tools.fuzz.report import markdown, summary
from tools.fuzz.run import run

_COUNTS = {"pictures": 3000, "clips": 300, "texts": 2000, "messages": 2000}
_REPORTS = Path(__file__).resolve().parent / "reports"


def main() -> int:
    """Run, and write the report."""
    parser = argparse.ArgumentParser(prog="python -m tools.fuzz", description=__doc__)
    for family in FAMILIES:
        parser.add_argument(f"--{family}", type=int, default=_COUNTS[family])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="judge one input again, such as clips:12, in this process")
    parser.add_argument("--out", type=Path, default=_REPORTS / "fuzz", help="without a suffix")
    args = parser.parse_args()
    if args.only:
        family, _, number = args.only.partition(":")
        with tempfile.TemporaryDirectory() as folder:
            print(judge(engine(Path(folder)), Inputs(args.seed), family, int(number)))
        return 0
    began = time.monotonic()
    verdicts: list[Verdict] = []
    for verdict in run({family: getattr(args, family) for family in FAMILIES}, args.seed):
        verdicts.append(verdict)
        if verdict.finding:
            print(f"{verdict.family}:{verdict.number}: {verdict.finding}", file=sys.stderr)
    names = ("pillow", "av", "tokenizers", "numpy")
    about = {
        "command": " ".join(["python -m tools.fuzz", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
        "versions": ", ".join(f"{name} {version(name)}" for name in names),
        "seed": args.seed,
        "seconds": round(time.monotonic() - began),
    }
    found = summary(verdicts, about)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    args.out.with_suffix(".md").write_text(markdown(found), "utf-8")
    print(f"{len(verdicts):,} inputs, {len(found['findings'])} findings: {args.out}.md")
    return 1 if found["findings"] else 0


if __name__ == "__main__":
    sys.exit(main())
