"""What `ume train sft` and `ume train grpo` do alike."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ume_core.errors import InvalidOption
from ume_train.config.load import PRESETS, Stage, read_config
from ume_train.config.stages import GRPOConfig, SFTConfig, StageConfig
from ume_train.logs import best_line

if TYPE_CHECKING:
    from ume_train.data.source import FileSource
    from ume_train.evaluation import Pair


def arguments(parser: argparse.ArgumentParser) -> None:
    """Configuration, changes to it, and where it goes."""
    parser.add_argument("config", metavar="CONFIG", help=f"a YAML file, or {', '.join(PRESETS)}")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="changes",
        help="change a key, such as optimizer.lr=1e-5; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, help="the run's directory (default: runs/STAGE-CONFIG); goes on there"
    )
    parser.add_argument("--until", type=int, metavar="STEP", help="save and stop after this step")
    parser.add_argument(
        "--dry-run", action="store_true", help="check the data, estimate memory and steps, stop"
    )


def run(stage: Stage, args: argparse.Namespace) -> int:
    """Check, train, and say where the model is."""
    config = read_config(stage, args.config, args.changes)
    out: Path = args.out or Path("runs") / f"{stage}-{Path(args.config).stem}"
    if args.dry_run:
        return _dry_run(stage, config, out)
    _check_start(config.model.start)  # before minutes of reading data
    with _turns(config.run.device):
        config = with_drawn(stage, config, out)
        source = open_source(stage, config, out)
        held_out = held_out_pairs(config, source, out)
    steps = count_steps(config, source)
    trainer = _trainer(config, out, source, steps, held_out)
    if trainer.first:
        print(_opening(config, source, trainer.step, steps, out), file=sys.stderr)
    done = trainer.train(args.until)
    if trainer.first:
        if done:
            if trainer.held_out is not None:
                print(f"{best_line(out)}: {out / 'best'}", file=sys.stderr)
            print(out / "model")
        else:
            print(f"stopped at step {trainer.step:,} and saved; the same command goes on",
                  file=sys.stderr)  # fmt: skip
    return 0


def _check_start(start: str) -> None:
    path = Path(start)
    if path.is_dir() or not start.startswith(("runs/", "/", "./", "../")):
        return  # or a name, of which loading says what is wrong
    made = f"ume train sft {path.parent.name.removeprefix('sft-')} makes it; or "
    raise InvalidOption(
        f"there is no directory {start}, which this run starts from",
        fix=f"{made if start.startswith('runs/') else ''}--set model.start=DIRECTORY",
    )


def with_drawn(stage: Stage, config: StageConfig, out: Path) -> StageConfig:
    """The configuration with the package's own data drawn and named, where it asks for them."""
    if not config.data.drawn:
        return config
    from ume_train.config.load import CONFIGS, check_config
    from ume_train.data.drawn import draw_data

    made = draw_data(out / "drawn", config.data.drawn, config.run.seed)
    given = config.model_dump(mode="json")
    path = str(made[stage == "grpo"])
    given["data"] |= {"drawn": 0, "files": [{"path": path, "media": str(out / "drawn" / "media")}]}
    return check_config(CONFIGS[stage], given, "the drawn data")


def open_source(stage: Stage, config: StageConfig, out: Path) -> FileSource:
    """The records, checked."""
    from ume_train.data.source import FileSource

    aside = config.evaluate.every and not config.evaluate.files
    source = FileSource(
        config.data, size=pairs_of(config), seed=config.run.seed, answers=stage == "sft",
        work=out / "data", frame_pixels=config.model.video_frame_pixels,
        held_out=config.evaluate.pairs if aside else 0,
        progress=lambda text: print(text, file=sys.stderr, flush=True),
    )  # fmt: skip
    if source.bad:
        print(f"{len(source.bad)} bad records are left out: {out / 'data' / 'bad-records.txt'}",
              file=sys.stderr)  # fmt: skip
    if source.left_out:
        print(
            f"left out, with fewer pairs than a batch has: {', '.join(source.left_out)}",
            file=sys.stderr,
        )
    return source


def held_out_pairs(config: StageConfig, source: FileSource, out: Path) -> Sequence[Pair]:
    """The pairs on which retrieval is measured."""
    from ume_train.data.source import FileSource

    settings = config.evaluate
    if not settings.every:
        return ()
    if not settings.files:
        return source.held_out()
    data = config.data.model_copy(update={"files": settings.files, "order": "shuffled"})
    held = FileSource(
        data, size=1, seed=config.run.seed, answers=False, work=out / "data",
        frame_pixels=config.model.video_frame_pixels,
    )  # fmt: skip
    return [held.pair(int(held.order.rows(n)[0])) for n in range(min(settings.pairs, len(held)))]


def pairs_of(config: StageConfig) -> int:
    """Pairs of one batch of the source."""
    if isinstance(config, SFTConfig):
        return config.batch.pairs
    assert isinstance(config, GRPOConfig)
    return config.batch.pairs_per_reward


def count_steps(config: StageConfig, source: FileSource) -> int:
    """Optimizer steps of the run."""
    if config.run.steps is not None:
        return config.run.steps
    accumulate: int = config.batch.accumulate  # type: ignore[attr-defined]
    updates = config.loss.iterations if isinstance(config, GRPOConfig) else 1
    return max(1, int(config.run.epochs * source.order.batches / accumulate)) * updates


def _trainer(
    config: StageConfig, out: Path, source: FileSource, steps: int, held_out: Sequence[Pair]
) -> Any:
    if isinstance(config, SFTConfig):
        from ume_train.sft import SFT

        return SFT(config, out, source, steps, held_out=held_out)
    from ume_train.grpo.trainer import GRPO

    assert isinstance(config, GRPOConfig)
    return GRPO(config, out, source, steps, held_out=held_out)


def _opening(config: StageConfig, source: FileSource, step: int, steps: int, out: Path) -> str:
    at = f"goes on at step {step:,}" if step else f"from {config.model.start}"
    held = f" and {source.aside:,} held out" if source.aside else ""
    return (
        f"{len(source):,} pairs of {len(set(source.names))} data sets{held}, {steps:,} steps, "
        f"{at}; run: {out}"
    )


def _dry_run(stage: Stage, config: StageConfig, out: Path) -> int:
    from ume_train.estimate import estimate

    source = None
    missing = [str(f.path) for f in config.data.files if not f.path.is_file()]
    if not missing:
        config = with_drawn(stage, config, out)
        source = open_source(stage, config, out)
    print(estimate(config, source, missing))
    return 0


class _turns:
    """Under torchrun, the first process of each machine reads the data before the others do."""

    def __init__(self, device: str) -> None:
        self._device = device

    def __enter__(self) -> None:
        from accelerate import PartialState

        from ume_train.gather import on_cpu

        self._state = PartialState(cpu=on_cpu(self._device))
        if not self._state.is_local_main_process:
            self._state.wait_for_everyone()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self._state.is_local_main_process and kind is None:
            self._state.wait_for_everyone()
