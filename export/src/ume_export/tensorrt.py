"""TensorRT engines of an exported directory, built on the GPU that will serve them.

TensorRT 10 and 11: the network is strongly typed, so the precision is that of the graphs. TF32 is
off: float32 engines compute in float32, and their vectors mix with ume-torch's.
"""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, SupportsInt, cast

import numpy as np
import tensorrt as trt

from ume_core.errors import CheckpointError, InvalidOption, UmeError
from ume_core.options import LoadOptions
from ume_export.bfloat16 import on_cpu
from ume_export.operators import check_operators
from ume_export.parity import BOUNDS, compare, samples, summary
from ume_qwen.digests import files_digest
from ume_qwen.exported.embedder import ExportedEmbedder
from ume_qwen.exported.inputs import TEXT, VISION, Floats, VisionLayout
from ume_qwen.exported.manifest import Manifest
from ume_tensorrt import cuda
from ume_tensorrt.engine import create
from ume_tensorrt.manifest import EngineManifest, plan_files
from ume_tensorrt.names import FOLDER
from ume_tensorrt.probes import probe
from ume_tensorrt.profiled import NO_PROFILE, ProfiledRunner
from ume_tensorrt.profiles import Point, Profile, as_json, load_profiles
from ume_tensorrt.runtime import LOG, Runtime

_TIMINGS = "timing.cache"
# Largest difference allowed of an engine's unit vectors from the graphs in float32. Two correct
# bfloat16 computations of the 2B shape differ by 3e-3 (upstream's own batches of 4 and of 1).
_BOUNDS = BOUNDS | {"bfloat16": 2e-2}
Say = Callable[[str], None]


def build(
    directory: Path,
    *,
    profiles: str = "low-latency",
    device: str = "auto",
    workspace: int = 8 << 30,
    version_compatible: bool = False,
    say: Say = lambda line: print(line, file=sys.stderr, flush=True),
) -> EngineManifest:
    """Build both engines into `directory`, in place of older ones once the new ones passed.

    Args:
        directory: an export.
        profiles: a preset's name or a JSON file (`ume_tensorrt.profiles`).
        device: `auto`, `cuda` or `cuda:N`.
        workspace: bytes TensorRT may use for one layer.
        version_compatible: newer TensorRT of this major version may load the engines; they carry a
            lean runtime, which is code, and may be slower.
        say: told what happens, line by line.

    Raises:
        CheckpointError: no export, a graph TensorRT does not take, or parity beyond the bound.
        EngineUnavailable: no GPU. InvalidOption: wrong profiles, or an int8 export.
    """
    manifest = Manifest.read(directory)
    if manifest.precision == "int8":
        raise InvalidOption(
            "int8 exports hold ONNX Runtime's own operators",
            fix="export with -o precision=bfloat16 or float32",
        )
    chosen = load_profiles(profiles)
    gpu = cuda.select(device)
    say(f"TensorRT {trt.__version__} on {gpu.name} ({gpu.capability}); minutes per graph")
    with _replacing(directory / FOLDER) as folder:
        seconds: dict[str, float] = {}
        for graph in (VISION, TEXT):
            began = time.monotonic()
            onnx = directory / "onnx" / f"{graph}.onnx"
            check_operators(onnx, graph)
            build_engine(
                onnx, folder / f"{graph}.plan", chosen[graph], manifest.inputs[graph],
                timings=folder / _TIMINGS, workspace=workspace,
                version_compatible=version_compatible, say=say,
            )  # fmt: skip
            seconds[graph] = round(time.monotonic() - began, 1)
            say(f"{graph}: built in {seconds[graph]} s")
        built = EngineManifest(
            graphs=manifest.graphs_digest,
            tensorrt=trt.__version__,
            device=asdict(gpu),
            version_compatible=version_compatible,
            profiles=as_json(chosen),
            plans=files_digest(plan_files(folder)),
            parity={"passed": False},
            seconds=seconds,
        )
        built.write(folder)
        say("checking parity against the same graphs on ONNX Runtime's CPU")
        parity = _parity(directory, folder, manifest.precision, device)
        if not parity["passed"]:
            raise CheckpointError(
                f"the engines differ from ONNX Runtime by {parity['max_difference']:.1e} "
                f"(cosine {parity['cosine']:.6f}); the bound is {parity['bound']}",
                fix="build from a higher precision; if this is float32, report it as a bug",
            )
        checked = replace(built, parity=parity)
        checked.write(folder)
    return checked


def build_engine(
    onnx: Path,
    plan: Path,
    profiles: tuple[Profile, ...],
    inputs: Mapping[str, Any],
    *,
    timings: Path,
    workspace: int,
    version_compatible: bool,
    say: Say,
) -> None:
    """One graph's engine file; `timings` is read if there, and written.

    Raises:
        CheckpointError: TensorRT does not take the graph. KeyboardInterrupt: as the user asked.
    """
    LOG.clear()
    try:
        _build(onnx, plan, profiles, inputs, timings, workspace, version_compatible, say)
    except UmeError:
        raise
    except (RuntimeError, TypeError, ValueError) as error:  # how the bindings report failures
        raise CheckpointError(
            f"TensorRT could not build {onnx.stem}: {error}; {LOG.said}",
            fix="use smaller profiles or more workspace",
        ) from error


def _build(
    onnx: Path,
    plan: Path,
    profiles: tuple[Profile, ...],
    inputs: Mapping[str, Any],
    timings: Path,
    workspace: int,
    version_compatible: bool,
    say: Say,
) -> None:
    builder = trt.Builder(LOG)
    typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(typed)
    parser = trt.OnnxParser(network, LOG)
    if not parser.parse_from_file(str(onnx)):
        said = "; ".join(cast(Any, parser.get_error(n)).desc() for n in range(parser.num_errors))
        raise CheckpointError(
            f"TensorRT {trt.__version__} does not take {onnx}: {said}", fix="report it as a bug"
        )
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    config.clear_flag(trt.BuilderFlag.TF32)
    if version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    for entry in profiles:
        profile = builder.create_optimization_profile()
        for name, corners in entry.shapes(inputs).items():
            least, best, most = (trt.Dims(list(corner)) for corner in corners)
            profile.set_shape(name, least, best, most)
        if config.add_optimization_profile(profile) < 0:
            raise CheckpointError(
                f"TensorRT does not take profile {entry}: {LOG.said}", fix="change the profiles"
            )
    cache = cast(
        Any, config.create_timing_cache(timings.read_bytes() if timings.is_file() else b"")
    )
    # Timings of another GPU or TensorRT are refused: begin anew.
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        cache = cast(Any, config.create_timing_cache(b""))
        config.set_timing_cache(cache, ignore_mismatch=False)
    progress = _Progress(say)
    config.progress_monitor = progress
    # None when it fails or is stopped, whatever the bindings' types say.
    with progress.stoppable():
        built = cast(Any, builder.build_serialized_network(network, config))
    if progress.stopped:
        raise KeyboardInterrupt
    if built is None:
        raise CheckpointError(
            f"TensorRT could not build {onnx.stem}: {LOG.said}",
            fix="use smaller profiles or more workspace",
        )
    plan.write_bytes(built)
    timings.write_bytes(cache.serialize())


class _Progress(trt.IProgressMonitor):
    """Says which phase runs, and stops the build at its next step once `stopped` is set."""

    def __init__(self, say: Say) -> None:
        trt.IProgressMonitor.__init__(self)
        self.stopped = False
        self._say = say
        self._steps: dict[str, int] = {}

    @contextmanager
    def stoppable(self) -> Generator[None]:
        """Ctrl-C and SIGTERM set `stopped`.

        The main thread is in C++ meanwhile: an exception raised in a callback of it would be lost.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(*_: object) -> None:
            self.stopped = True

        before = {n: signal.signal(n, stop) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def phase_start(
        self, phase_name: str, parent_phase: str | None, num_steps: SupportsInt
    ) -> None:
        """Called by TensorRT."""
        self._steps[phase_name] = int(num_steps)
        if parent_phase is None:
            self._say(f"  {phase_name}")

    def step_complete(self, phase_name: str, step: SupportsInt) -> bool:
        """Called by TensorRT; False stops the build."""
        total, done = self._steps.get(phase_name, 0), int(step)
        if total >= 20 and done and done % (total // 10) == 0:
            self._say(f"  {phase_name}: {done} of {total}")
        return not self.stopped

    def phase_finish(self, phase_name: str) -> None:
        """Called by TensorRT."""
        self._steps.pop(phase_name, None)


@contextmanager
def _replacing(folder: Path) -> Generator[Path]:
    """A folder that takes the place of an older one when the block ends well."""
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    old = part.with_name(part.name + "-old")
    try:
        if (folder / _TIMINGS).is_file():
            shutil.copyfile(folder / _TIMINGS, part / _TIMINGS)
        yield part
        part.chmod(folder.parent.stat().st_mode & 0o777)
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
    except BaseException:
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(part, ignore_errors=True)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _parity(directory: Path, folder: Path, precision: str, device: str) -> dict[str, Any]:
    """Every profile at the sizes it was tuned for, and the samples that the profiles take.

    Raises:
        CheckpointError: an engine failed at something its profiles take.
    """
    with on_cpu(directory, precision) as reference:
        return _compared(reference, directory, folder, device, _BOUNDS[precision])


def _compared(
    reference: ExportedEmbedder, directory: Path, folder: Path, device: str, bound: float
) -> dict[str, Any]:
    ours = create(directory, LoadOptions(device=device), unchecked=True, folder=folder)
    runner = cast(ProfiledRunner, ours.runner)
    layout = VisionLayout.of(ours.checkpoint.config)
    cases: dict[str, dict[str, float]] = {}
    for graph, profiles in runner.profiles.items():
        inputs = ours.export.manifest.inputs[graph]
        for number, profile in enumerate(profiles):
            sizes = {axis: span.best for axis, span in profile.axes.items()}
            arrays = probe(graph, inputs, layout, sizes)
            found = runner.points.run(graph, Point(number, tuple(sizes.items())), arrays)
            expected = reference.runner.run(graph, arrays)
            cases[f"{graph}, profile {number}"] = compare(_unit(expected), _unit(found))
    left_out: list[str] = []
    for name, items in samples().items():
        result = ours.embed(items, on_error="record")
        failed = [r.reason or "" for r in result.records if r.status != "ok"]
        if any(NO_PROFILE not in reason for reason in failed):
            raise CheckpointError(f"the engines failed on {name}: {failed[0]}", fix="build again")
        taken = [n for n, r in enumerate(result.records) if r.status == "ok"]
        if failed:
            left_out.append(f"{name}: {len(failed)} of {len(items)}")
        if taken:
            wanted = reference.embed([items[n] for n in taken]).vectors("disc")
            assert result.disc is not None
            cases[name] = compare(wanted, result.disc[taken])
    cast(Runtime, runner.points).close()
    return summary(cases, bound) | {"left_out": left_out}


def _unit(states: Floats) -> Floats:
    """Rows of length one, so that one bound holds for visual states, too."""
    rows = np.reshape(states, (-1, states.shape[-1]))
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
