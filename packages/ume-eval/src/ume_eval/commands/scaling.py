"""`ume eval scaling`: what thinking is worth on tasks of MMEB-V2, or on the miniature."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from ume_core import Embedder
from ume_core.errors import InvalidOption
from ume_eval.commands.model import load_model, model_arguments
from ume_eval.commands.progress import Bar
from ume_eval.data import Annotations, TaskData, parse
from ume_eval.demo import DEMO_TASKS, build_demo
from ume_eval.report.scaling import write_scaling
from ume_eval.run import Workers, preflight, require_ready
from ume_eval.run.store import write_json
from ume_eval.scaling import Shuffled, StudyOptions, study
from ume_eval.tasks import DEFAULT_PROTOCOL, PROTOCOLS, choose, tasks_of

_THINKING = ("short", "none", "skip")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Data, model, samples and ways of thinking."""
    parser.add_argument("--data", type=Path, help="directory with MMEB-V2's media and annotations")
    parser.add_argument("--demo", action="store_true", help="draw a miniature and study that")
    parser.add_argument("--protocol", default=DEFAULT_PROTOCOL, choices=PROTOCOLS)
    parser.add_argument("--tasks", nargs="+", default=[], metavar="TASK")
    parser.add_argument("--samples", type=int, default=8, help="sampled answers per query; 0: none")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--variants", nargs="*", default=[*_THINKING, "shuffled"], choices=(*_THINKING, "shuffled"),
        help="ways of thinking beside full; shuffled: each answer begins with another item's",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, default=Path("scaling-results"))
    model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Study every task; prints the page."""
    if args.demo:
        args.data = args.data or args.output / "demo-data"
        args.model = args.model or "ume-nano"
        args.max_new_tokens = args.max_new_tokens or 64
        build_demo(args.data, args.protocol)
    if args.data is None or args.model is None:
        raise InvalidOption("--data or --model is missing", fix="give both, or try --demo")
    tasks = tasks_of(args.protocol)
    tasks = choose([t for t in tasks if not args.demo or t.name in DEMO_TASKS], args.tasks)
    annotations = Annotations(args.data, args.data / ".arrow" if args.demo else None)
    require_ready(preflight(tasks, annotations, allow_partial=args.demo))
    embedder, convention = load_model(args, Workers())
    variants = {
        name: load_model(argparse.Namespace(**{**vars(args), "thinking": name}), Workers())[0]
        for name in args.variants
        if name in _THINKING
    }
    answers: dict[str, Shuffled] = {}
    if "shuffled" in args.variants:
        dealt = Shuffled(embedder, max_new_tokens=args.max_new_tokens)
        answers["thinking of another item"] = dealt
    options = StudyOptions(
        args.samples, args.temperature, args.max_new_tokens, args.seed, variants, answers
    )
    signature = embedder.signature("gen")
    about = {
        "model": signature.model, "weights": signature.weights, "dtype": signature.dtype,
        "protocol": args.protocol, "conventions": convention, "prompt": signature.prompt,
        "budget": args.max_new_tokens, "samples": args.samples, "temperature": args.temperature,
        "seed": args.seed, "variants": args.variants,
    }  # fmt: skip
    found: list[dict[str, Any]] = []
    for number, task in enumerate(tasks, 1):
        title = f"{task.name} ({number}/{len(tasks)})"
        found.append(_study(parse(task, annotations), embedder, options, about, args.output, title))
    print(write_scaling(args.output, about, found))
    return 0


def _study(
    data: TaskData,
    embedder: Embedder,
    options: StudyOptions,
    about: dict[str, Any],
    output: Path,
    title: str,
) -> dict[str, Any]:
    """One task's study; taken from its file if that was made under the same settings."""
    path = output / "studies" / f"{data.task.name}.json"
    settings = {**about, "signature": embedder.signature("gen").digest, "data": data.digest()}
    if path.is_file():
        kept = json.loads(path.read_text("utf-8"))
        if kept["settings"] == json.loads(json.dumps(settings)):
            return kept["study"]
    with Bar(title, options.work(len(data.queries), len(data.candidates))) as bar:
        found = study(data, embedder, replace(options, advance=bar.advance))
    write_json(path, {"settings": settings, "study": found})
    return found
