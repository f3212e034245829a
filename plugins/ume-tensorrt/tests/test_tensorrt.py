"""The TensorRT engine: what can be shown without a GPU, and hardware tests that say why they skip.

Profiles, padding, splitting and limits run on the real graphs through ONNX Runtime, at the very
points TensorRT would compute. TensorRT's own part is type-checked against both lines' bindings
(`tools/test`) and imported with them here; only a GPU shows that it computes.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ume_core
from ume_core import CheckpointError, EngineUnavailable, Image, InvalidOption, LimitExceeded, Video
from ume_core.options import LoadOptions
from ume_core.testing import EmbedderContract
from ume_core.testing.contract import mixed_items, picture
from ume_onnxruntime.engine import create as on_onnxruntime
from ume_qwen.devices import has_gpu
from ume_qwen.digests import files_digest
from ume_qwen.exported.embedder import ExportedEmbedder
from ume_qwen.exported.inputs import OUTPUTS, TEXT, VISION, Arrays, Floats, VisionLayout
from ume_qwen.formats import MANIFEST
from ume_r1.cli import main
from ume_tensorrt.buffers import ALIGNMENT, nbytes, output_shape, plan
from ume_tensorrt.manifest import Device, EngineManifest, read_manifest
from ume_tensorrt.names import FOLDER
from ume_tensorrt.probes import probe
from ume_tensorrt.profiled import NO_PROFILE, ProfiledRunner
from ume_tensorrt.profiles import (
    AXES,
    PRESETS,
    Point,
    as_json,
    choose,
    grid,
    load_profiles,
    parse_profiles,
    shape,
    sizes_of,
)

ROOT = Path(__file__).resolve().parents[3]
# Why TensorRT cannot run here, or "".
HARDWARE = (
    "TensorRT is not installed" if find_spec("tensorrt") is None
    else "no NVIDIA GPU" if not has_gpu() else ""
)  # fmt: skip
needs_hardware = pytest.mark.skipif(bool(HARDWARE), reason=f"not run: {HARDWARE}")

# Narrow enough that the kit's batches must be split and some items be refused.
NARROW = parse_profiles(
    {
        VISION: [{"images": [1, 1, 2], "patches": [4, 16, 64]},
                 {"images": [1, 1, 1], "patches": [4, 64, 256]}],
        TEXT: [{"rows": [1, 1, 2], "tokens": [1, 32, 100], "visual_tokens": [1, 9, 40]},
               {"rows": [1, 1, 1], "tokens": [32, 64, 200], "visual_tokens": [1, 9, 100]}],
    },
    "NARROW",
)  # fmt: skip


class OnSessions:
    """Computes at a point through ONNX Runtime's sessions; keeps what ran."""

    def __init__(self, sessions: ExportedEmbedder) -> None:
        self._sessions = sessions
        self.ran: list[tuple[str, Point]] = []

    def run(self, graph: str, point: Point, arrays: Arrays) -> Floats:
        """At exactly the point's shapes, as a captured CUDA graph would."""
        inputs = self._sessions.export.manifest.inputs[graph]
        for name, array in arrays.items():
            assert array.shape == shape(inputs, name, dict(point.sizes))
        self.ran.append((graph, point))
        output = self._sessions.runner.run(graph, arrays)
        wanted = output_shape(graph, dict(point.sizes), self._sessions.dimensions)
        assert output.shape == wanted
        return output


class OnPoints(ExportedEmbedder):
    """The TensorRT engine with ONNX Runtime in TensorRT's place."""

    def __init__(self, directory: Path, profiles: Any = NARROW, **options: Any) -> None:
        self.sessions = on_onnxruntime(directory)
        self.points = OnSessions(self.sessions)
        self.profiles = profiles
        export = self.sessions.export
        runner = ProfiledRunner(self.points, profiles, export.manifest.inputs, directory)
        super().__init__("tensorrt", export, runner, LoadOptions(**options))

    @property
    def ran(self) -> list[tuple[str, Point]]:
        """Graphs and points that ran."""
        return self.points.ran


class TestProfiledNano(EmbedderContract):
    @pytest.fixture(scope="class")
    def embedder(self, exported: Path) -> OnPoints:
        return OnPoints(exported)


class TestProfiledQwen25(EmbedderContract):
    @pytest.fixture(scope="class")
    def embedder(self, exported_25: Path) -> OnPoints:
        return OnPoints(exported_25, load_profiles("throughput"))


def many() -> list[Any]:
    sizes = [(84, 84), (112, 56), (56, 140), (84, 84)]
    return [
        *mixed_items(), "a longer text than the others, of several words " * 3,
        *[Image(picture(s, *size)) for s, size in enumerate(sizes)],
        Video([picture(s, 112, 84) for s in range(10)]),
    ]  # fmt: skip


@pytest.mark.parametrize("profiles", [*PRESETS, "narrow"])
def test_padding_and_splitting_change_no_vector(
    profiles: str, exported: Path, exported_25: Path
) -> None:
    for directory in (exported, exported_25):
        chosen = NARROW if profiles == "narrow" else load_profiles(profiles)
        engine = OnPoints(directory, chosen)
        result = engine.embed(many(), on_error="record")
        expected = engine.sessions.embed(many()).vectors("disc")
        taken = [n for n, record in enumerate(result.records) if record.status == "ok"]
        assert result.disc is not None and len(taken) >= 8
        assert len(taken) == len(expected) or profiles == "narrow"
        assert np.abs(result.disc[taken] - expected[taken]).max() <= 1e-5
        padded = [p for g, p in engine.ran if g == TEXT and p.size("tokens") % 16 == 0]
        assert padded, "nothing was padded, so nothing was shown"


def test_a_text_needs_no_profile_for_the_blank_picture(exported: Path) -> None:
    profiles = parse_profiles(
        {
            VISION: [{"images": [1, 1, 1], "patches": [64, 64, 64]}],
            TEXT: [{"rows": [1, 1, 2], "tokens": [1, 32, 64], "visual_tokens": [1, 1, 1]}],
        },
        "texts",
    )
    engine = OnPoints(exported, profiles)
    expected = engine.sessions.embed(["a dog"]).vectors("disc")
    assert np.abs(engine.embed(["a dog"]).vectors("disc") - expected).max() <= 1e-5


def test_a_batch_beyond_the_profiles_runs_in_parts(exported: Path) -> None:
    engine = OnPoints(exported)
    engine.embed([Video([picture(s, 84, 84) for s in range(10)])])
    images = [p.size("images") for graph, p in engine.ran if graph == VISION]
    assert images == [2, 2, 1]  # ten frames are five pairs; a call takes two
    engine.ran.clear()
    engine.embed(["one", "two", "three"])
    rows = [p.size("rows") for graph, p in engine.ran if graph == TEXT]
    assert rows == [2, 1]


def test_what_no_profile_takes_is_refused_before_it_costs_anything(exported: Path) -> None:
    engine = OnPoints(exported, max_pixels=600 * 600)
    items: list[Any] = ["short", "word " * 300, Image(picture(1, 600, 600))]
    result = engine.embed(items, on_error="record")
    assert [r.status for r in result.records] == ["ok", "failed", "failed"]
    assert NO_PROFILE in str(result.records[1].reason) and "--profiles" in str(
        result.records[1].reason
    )
    assert "patches" in str(result.records[2].reason)
    assert VISION not in [graph for graph, _ in engine.ran]
    with pytest.raises(LimitExceeded, match=r"item 1: .*--format tensorrt --profiles"):
        engine.embed(items)


def test_every_profile_can_be_probed_at_the_sizes_it_is_tuned_for(
    exported: Path, exported_25: Path
) -> None:
    for directory in (exported, exported_25):
        engine = OnPoints(directory)
        for graph in AXES:
            inputs = engine.export.manifest.inputs[graph]
            layout = VisionLayout.of(engine.checkpoint.config)
            for number, profile in enumerate(engine.profiles[graph]):
                sizes = {axis: span.best for axis, span in profile.axes.items()}
                arrays = probe(graph, inputs, layout, sizes)
                assert sizes_of(graph, inputs, arrays) == sizes
                found = engine.points.run(graph, Point(number, tuple(sizes.items())), arrays)
                assert np.isfinite(found).all() and np.ptp(found) > 0


def test_a_point_holds_its_request_at_the_least_work() -> None:
    rng = np.random.default_rng(0)
    for profiles in (*map(load_profiles, PRESETS), NARROW):
        for graph in AXES:
            held = 0
            for _ in range(400):
                most = profiles[graph][int(rng.integers(len(profiles[graph])))].most()
                sizes = {a: int(rng.integers(1, 2 * most[a])) for a in AXES[graph]}
                if graph == VISION:
                    sizes["patches"] = max(4, sizes["patches"] // 4 * 4)
                point = choose(graph, profiles[graph], sizes)
                able = [
                    p for p in profiles[graph]
                    if all(
                        s <= p.axes[a].most and (a != "patches" or p.axes[a].least <= s)
                        for a, s in sizes.items()
                    )
                ]  # fmt: skip
                assert (point is None) == (not able)
                if point is None:
                    continue
                held += 1
                spans = profiles[graph][point.profile].axes
                for axis, size in sizes.items():
                    assert size <= point.size(axis) <= spans[axis].most
                    assert point.size(axis) <= max(grid(axis, size), spans[axis].least)
                assert graph != VISION or point.size("patches") == sizes["patches"]
            assert held > 20


def test_few_points_serve_many_lengths() -> None:
    """A lane keeps 32 captured graphs: prompts of 1 to 512 tokens alone need fewer."""
    profiles = load_profiles("low-latency")[TEXT]
    points = {
        choose(TEXT, profiles, {"rows": 1, "tokens": n, "visual_tokens": v})
        for n in range(1, 513) for v in (1, 2)
    }  # fmt: skip
    assert None not in points and len(points) <= 41


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda p: p.pop(TEXT), "must have"),
        (lambda p: p.update({TEXT: []}), "one to eight"),
        (lambda p: p.update({TEXT: [{}]}), r"text_encoder\[0\] must have rows"),
        (lambda p: p[TEXT][1].update(rows=[2, 1, 4]), r"text_encoder\[1\]\.rows"),
        (lambda p: p[TEXT][0].update(tokens=[1, 2]), r"\.tokens"),
        (lambda p: p[TEXT][0].update(tokens=[1, 2, 10**9]), "too much"),
        (lambda p: p[TEXT][0].update(tokens=[True, 2, 3]), r"\.tokens"),
        (lambda p: p[VISION][0].update(patches=[4, 6, 8]), "come in 4s"),
    ],
)
def test_wrong_profiles_are_named(change: Callable[[Any], Any], named: str, tmp_path: Path) -> None:
    given: Any = as_json(load_profiles("low-latency"))
    assert parse_profiles(given, "x") == load_profiles("low-latency")
    change(given)
    path = tmp_path / "profiles.json"
    path.write_text(json.dumps(given))
    with pytest.raises(InvalidOption, match=named):
        load_profiles(str(path))
    path.write_text("{")
    with pytest.raises(InvalidOption, match="no JSON"):
        load_profiles(str(path))
    with pytest.raises(InvalidOption, match="low-latency"):
        load_profiles("fastest")


def test_buffers_hold_every_profiles_largest_request(exported: Path, exported_25: Path) -> None:
    for directory in (exported, exported_25):
        inputs = json.loads((directory / MANIFEST).read_text())["inputs"]
        for profiles in (NARROW, *map(load_profiles, PRESETS)):
            for graph in AXES:
                buffers = plan(graph, inputs[graph], profiles[graph], 192)
                starts = sorted(buffers.offsets.values())
                ends = dict(zip(starts, [*starts[1:], buffers.nbytes], strict=True))
                assert all(start % ALIGNMENT == 0 for start in starts)
                assert set(buffers.offsets) == {*inputs[graph], OUTPUTS[graph]}
                for profile in profiles[graph]:
                    most = profile.most()
                    wanted = {
                        name: nbytes(shape(inputs[graph], name, most), inputs[graph][name][0])
                        for name in inputs[graph]
                    } | {OUTPUTS[graph]: nbytes(output_shape(graph, most, 192), "FLOAT")}
                    for name, size in wanted.items():
                        start = buffers.offsets[name]
                        assert start + size <= ends[start]


def _built(exported: Path, folder: Path) -> EngineManifest:
    """What a build would have written, over plan files that hold nothing."""
    folder.mkdir(parents=True)
    for graph in AXES:
        (folder / f"{graph}.plan").write_bytes(b"no engine")
    found = EngineManifest(
        graphs=json.loads((exported / MANIFEST).read_text())["graphs_digest"],
        tensorrt="10.16.1.11",
        device={"name": "NVIDIA H200", "capability": "9.0"},
        version_compatible=False,
        profiles=as_json(NARROW),
        plans=files_digest(sorted(folder.glob("*.plan"))),
        parity={"passed": True},
        seconds={},
    )
    found.write(folder)
    return found


def test_engines_of_another_build_are_refused_with_the_rebuild_command(
    exported: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "copy"
    shutil.copytree(exported, directory)
    with pytest.raises(CheckpointError, match=r"ume export .* --format tensorrt"):
        read_manifest(directory)
    built = _built(exported, directory / FOLDER)
    found = read_manifest(directory)
    assert found == built and found.parsed_profiles(directory) == NARROW
    here = Device("NVIDIA H200", "9.0")

    def check(manifest: EngineManifest, version: str = "10.16.1.11", on: Device = here) -> None:
        manifest.check(directory, built.graphs, version, on)

    check(found)
    check(found, "10.16.1.99")
    compatible = dataclasses.replace(found, version_compatible=True)
    check(compatible, "10.17.0.1")
    refused: list[tuple[EngineManifest, str, Device, type[Exception], str]] = [
        (found, "10.17.0.1", here, EngineUnavailable, "built by TensorRT 10.16.1.11"),
        (found, "11.4.0.106", here, EngineUnavailable, "11.4.0.106 is installed"),
        (compatible, "11.4.0.106", here, EngineUnavailable, "11.4.0.106"),
        (compatible, "10.15.0.1", here, EngineUnavailable, "10.15.0.1"),
        (found, "10.16.1.11", Device("NVIDIA A100", "8.0"), EngineUnavailable, "A100"),
        (found, "10.16.1.11", Device("NVIDIA H100", "9.0"), EngineUnavailable, "H100"),
        (dataclasses.replace(found, graphs="x"), "10.16.1.11", here, CheckpointError, "another"),
        (dataclasses.replace(found, parity={}), "10.16.1.11", here, CheckpointError, "parity"),
    ]
    for manifest, version, device, kind, match in refused:
        with pytest.raises(kind, match=f"{match}.*Fix: run: ume export"):
            check(manifest, version, device)
    (directory / FOLDER / f"{TEXT}.plan").write_bytes(b"changed")
    with pytest.raises(CheckpointError, match="were changed"):
        check(found)
    for text in ("{", "[]", '{"x": 1}', json.dumps(dataclasses.asdict(found) | {"format": 9}),
                 json.dumps(dataclasses.asdict(found) | {"device": 3})):  # fmt: skip
        (directory / FOLDER / "engines.json").write_text(text)
        with pytest.raises(CheckpointError, match="Fix: run: ume export"):
            read_manifest(directory)


@pytest.mark.skipif(not HARDWARE, reason="TensorRT can run here")
def test_without_tensorrt_engines_are_served_by_onnxruntime_and_nothing_is_built(
    exported: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "copy"
    shutil.copytree(exported, directory)
    _built(exported, directory / FOLDER)
    assert ume_core.load(directory).name == "onnxruntime"
    with pytest.raises(EngineUnavailable, match=r"tensorrt engine needs .*onnxruntime"):
        ume_core.load(directory, engine="tensorrt")
    before = sorted(p.name for p in directory.rglob("*"))
    assert main(["export", str(directory), "--format", "tensorrt"]) == 2
    assert main(["export", "ume-nano", str(tmp_path / "new"), "--format", "tensorrt"]) == 2
    assert main(["export", str(directory), "--format", "tensorrt", "-o", "profiles=fastest"]) == 2
    assert main(["export", str(directory)]) == 2
    said = capfd.readouterr().err
    assert said.count("TensorRT cannot be loaded") == 2 and "fastest" in said
    assert sorted(p.name for p in directory.rglob("*")) == before
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("line", ["10", "11"])
def test_the_runtime_loads_with_real_bindings_and_needs_a_gpu(line: str, exported: Path) -> None:
    """NVIDIA's own compiled bindings, over libraries that do nothing; see tools/tensorrt_api.py."""
    bindings = ROOT / ".cache" / "tensorrt" / line / "bindings"
    if not (bindings / "tensorrt" / "__init__.py").is_file():
        pytest.skip(f"not run: TensorRT {line}'s bindings could not be read here")
    code = (
        "import tensorrt as trt\n"
        "from ume_tensorrt.runtime import Log\n"
        "log = Log(); log.log(trt.ILogger.Severity.ERROR, 'why'); assert log.said == 'why'\n"
        "from ume_tensorrt import cuda\n"
        "from ume_tensorrt.engine import create\n"
        "from ume_core import UmeError\n"
        "print(trt.__version__)\n"
        f"for call in (lambda: create({str(exported)!r}), lambda: cuda.select('cpu'),\n"
        "             lambda: cuda.select('auto')):\n"
        "    try: call()\n"
        "    except UmeError as error: print(error)\n"
    )
    paths = {"LD_LIBRARY_PATH": str(bindings), "PYTHONPATH": str(bindings)}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | paths,
        check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    version, *said = run.stdout.splitlines()
    assert version.startswith(f"{line}.")
    assert "holds no TensorRT engines" in said[0] and "does not run on device 'cpu'" in said[1]
    if not has_gpu():
        assert said[2].startswith("cudaSetDevice: cudaError") and "Fix" in said[2]


@needs_hardware
class TestTensorRT(EmbedderContract):
    @pytest.fixture(scope="class")
    def embedder(self, built: Path) -> Any:
        return ume_core.load(built, engine="tensorrt")


@needs_hardware
def test_on_a_gpu_vectors_equal_onnxruntimes_and_32_callers_do_not_mix(
    built: Path, exported: Path
) -> None:
    engine: Any = ume_core.load(built, engine="tensorrt", streams=3)
    items = many()
    expected = on_onnxruntime(exported, LoadOptions(device="cpu")).embed(items).vectors("disc")
    assert np.abs(engine.embed(items).vectors("disc") - expected).max() <= 1e-5
    assert engine.runner.points.uncaptured == 0
    worst: list[float] = []

    def work(caller: int) -> None:
        row = caller % len(items)
        found = engine.embed([items[row]]).vectors("disc")[0]
        worst.append(float(np.abs(found - expected[row]).max()))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(worst) == 32 and max(worst) <= 1e-5
