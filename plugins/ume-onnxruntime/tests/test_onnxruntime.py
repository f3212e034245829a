"""The exported encoder on ONNX Runtime: the contract, parity, and what the gate must catch."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from safetensors.torch import load_file, save_file

import ume_core
import ume_nano
from ume_core import CheckpointError, Image, InvalidOption, LoadOptions, ModeNotSupported, Video
from ume_core.testing import EmbedderContract
from ume_core.testing.contract import mixed_items, picture
from ume_onnxruntime import sessions
from ume_onnxruntime.engine import create
from ume_onnxruntime.options import OnnxOptions
from ume_qwen.checkpoint import find_checkpoint
from ume_qwen.exported import inputs
from ume_qwen.exported.embedder import ExportedEmbedder, GraphRunner
from ume_qwen.exported.environment import find_python
from ume_qwen.exported.inputs import Arrays, Floats
from ume_qwen.exported.manifest import Manifest
from ume_qwen.exported.prefix import Prefix, prefix_prompt
from ume_qwen.formats import MANIFEST
from ume_r1.cli import main
from ume_torch import TorchEmbedder

Make = Callable[[str], Path]


class TestOnnxNano(EmbedderContract):
    @pytest.fixture(scope="class")
    def embedder(self, exported: Path) -> ExportedEmbedder:
        return create(exported)


class TestOnnxQwen25(EmbedderContract):
    @pytest.fixture(scope="class")
    def embedder(self, exported_25: Path) -> ExportedEmbedder:
        return create(exported_25)


def many() -> list[Any]:
    sizes = [(84, 84), (112, 56), (56, 140), (84, 84)]
    return [
        *mixed_items(), "a longer text than the others, of several words " * 3,
        *[Image(picture(s, *size)) for s, size in enumerate(sizes)],
        {"images": [picture(7), picture(8, 56, 84), picture(7)], "text": "which?"},
        Video([picture(s, 112, 84) for s in range(6)]),
    ]  # fmt: skip


def test_vectors_equal_ume_torchs_and_share_its_signature(
    exported: Path, exported_25: Path, checkpoint: Make
) -> None:
    for directory, source in ((exported, ume_nano.path()), (exported_25, checkpoint("qwen2_5_vl"))):
        ours, theirs = create(directory), TorchEmbedder(source)
        found, expected = ours.embed(many()), theirs.embed(many())
        assert np.abs(found.vectors("disc") - expected.vectors("disc")).max() <= 1e-5
        found.signature.check(expected.signature)
        assert [r.prompt_tokens for r in found.records] == [
            r.prompt_tokens for r in expected.records
        ]


class Watched:
    """A runner that keeps what it is asked, and may change the arrays before they run."""

    def __init__(self, runner: GraphRunner, change: Callable[[Arrays], Arrays] = dict) -> None:
        self._runner, self._change = runner, change
        self.ran: list[tuple[str, Arrays]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def run(self, graph: str, arrays: Arrays) -> Floats:
        self.ran.append((graph, arrays))
        return self._runner.run(graph, self._change(arrays))


def with_runner(
    engine: ExportedEmbedder, runner: Any, *, manifest: Manifest | None = None
) -> ExportedEmbedder:
    """The engine on another runner, or with another manifest."""
    export = replace(engine.export, manifest=manifest or engine.export.manifest)
    return ExportedEmbedder(engine.name, export, runner, engine.options)


def test_what_all_prompts_begin_with_is_not_computed(exported: Path) -> None:
    watched = Watched(create(exported).runner)
    ran = watched.ran
    engine = with_runner(create(exported), watched)
    prefix = json.loads((exported / MANIFEST).read_text())["prefix"]
    text = engine.embed(["a dog"])
    ((graph, arrays),) = ran  # the blank picture is not computed either
    assert graph == inputs.TEXT and set(arrays["prefix_tokens"]) == {len(prefix["ids"])}
    tokens = text.records[0].prompt_tokens
    assert tokens is not None and len(arrays["input_ids"]) == tokens - len(prefix["ids"])
    engine.embed([Image(picture(1)), Image(picture(2))])
    (before_blank,) = map(int, prefix["media"])
    assert set(ran[-1][1]["prefix_tokens"]) == {before_blank}
    expected = engine.embed(many()).vectors("disc")
    # Text-only prompts now begin otherwise and are computed whole, beside those with media.
    other = replace(
        engine.export.manifest,
        prefix=Prefix(tuple(prefix["ids"]), {before_blank: "another"}).as_json(),
    )
    engine = with_runner(engine, watched, manifest=other)
    ran.clear()
    assert np.abs(engine.embed(many()).vectors("disc") - expected).max() <= 1e-5
    seen = {
        int(n) for graph, arrays in ran if graph == inputs.TEXT for n in arrays["prefix_tokens"]
    }
    assert seen == {0, before_blank}


def test_prompts_without_the_blank_picture_equal_ume_torchs(exported: Path) -> None:
    options = LoadOptions(text_only="plain")
    ours, theirs = create(exported, options), TorchEmbedder(ume_nano.path(), options)
    found, expected = ours.embed(many()), theirs.embed(many())
    assert np.abs(found.vectors("disc") - expected.vectors("disc")).max() <= 1e-5


def test_a_template_with_media_behind_the_text_has_a_prefix_without_them(tmp_path: Path) -> None:
    shutil.copytree(ume_nano.path(), tmp_path, dirs_exist_ok=True)
    template = tmp_path / "chat_template.json"
    forwards = template.read_text()
    backwards = forwards.replace("in message['content'] %}", "in message['content']|reverse %}")
    assert backwards != forwards
    template.write_text(backwards)
    prompt = prefix_prompt(find_checkpoint(tmp_path))
    assert prompt.media == () and len(prompt.ids) == prompt.prefix > 0
    assert Prefix.of(prompt).begins(prompt)


def _rolled(arrays: Arrays) -> Arrays:
    return arrays | {"cos": np.roll(arrays["cos"], 1, 0), "sin": np.roll(arrays["sin"], 1, 0)}


def _no_windows(arrays: Arrays) -> Arrays:
    return arrays | {"window_bias": np.zeros_like(arrays["window_bias"])}


def _flat_positions(arrays: Arrays) -> Arrays:
    positions = np.broadcast_to(
        np.arange(arrays["input_ids"].shape[0]), arrays["position_ids"].shape
    )
    return arrays | {"position_ids": np.ascontiguousarray(positions)}


def _one_before(arrays: Arrays) -> Arrays:
    return arrays | {"embed_index": arrays["embed_index"] - 1}


def _shorter_prefix(arrays: Arrays) -> Arrays:
    return arrays | {"prefix_tokens": arrays["prefix_tokens"] - 1}


@pytest.mark.parametrize(
    ("wrong", "graph"),
    [
        (_rolled, inputs.VISION),
        (_no_windows, inputs.VISION),
        (_flat_positions, inputs.TEXT),
        (_one_before, inputs.TEXT),
        (_shorter_prefix, inputs.TEXT),
    ],
)
def test_the_gate_catches_wrong_inputs_that_cosines_forgive(
    wrong: Callable[[Arrays], Arrays], graph: str, exported_25: Path, checkpoint: Make
) -> None:
    items = [Image(picture(s, 140, 112)) for s in range(3)]
    expected = TorchEmbedder(checkpoint("qwen2_5_vl")).embed(items).vectors("disc")
    right = create(exported_25)
    names = (inputs.TEXT_INPUTS if graph == inputs.TEXT else ("pixel_values",))[0]
    corrupt = Watched(right.runner, lambda arrays: wrong(arrays) if names in arrays else arrays)
    found = with_runner(right, corrupt).embed(items).vectors("disc")
    difference = float(np.abs(found - expected).max())
    assert difference > 1e-5, "the export's gate would let this pass"
    if wrong is _rolled:  # why the gate is not a cosine
        assert float((found * expected).sum(1).min()) > 0.99


def test_serving_imports_neither_torch_nor_transformers(exported: Path) -> None:
    code = (
        "import sys, ume_core\n"
        f"model = ume_core.load({str(exported)!r})\n"
        "assert model.name == 'onnxruntime'\n"
        "model.embed(['a dog', ume_core.Image('tools/gallery/dog.png'),"
        " ume_core.Video('tools/gallery/dog-moving-left.mp4')])\n"
        "print(sorted({'torch', 'transformers', 'torchvision', 'optimum'} & set(sys.modules)))\n"
    )
    root = Path(__file__).resolve().parents[3]
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    assert run.stdout.strip() == "[]"


def test_32_callers_do_not_mix_results_or_grow_memory(exported: Path) -> None:
    engine = create(exported, engine_options=OnnxOptions(media_cache_bytes=1 << 20))
    items = many()
    expected = engine.embed(items).vectors("disc")
    worst: list[float] = []

    def work(caller: int) -> None:
        for turn in range(3):
            row = (caller + turn) % len(items)
            found = engine.embed([items[row]]).vectors("disc")[0]
            worst.append(float(np.abs(found - expected[row]).max()))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(worst) == 96 and max(worst) < 1e-5
    assert engine.state_bytes <= 1 << 20


FORK = """
import multiprocessing, pickle, sys, ume_core
def child(answers):
    answers.put(float(model.embed(["another dog"]).disc[0, 0]))
model = ume_core.load(sys.argv[1], device="cpu")
expected = float(model.embed(["another dog"] * 9).disc[0, 0])
context = multiprocessing.get_context("fork")
answers = context.Queue()
process = context.Process(target=child, args=(answers,))
process.start()
assert abs(answers.get(timeout=60) - expected) < 1e-5
process.join(10)
model.uses_gpu = True
vars(model)['_loaded_in'] -= 1  # as if this were a child of the process that loaded it
for call in (lambda: model.embed(["x"]), lambda: pickle.dumps(model)):
    try:
        call()
    except ume_core.UmeError as error:
        print(error)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_forks_go_on_working_on_a_cpu_and_are_said_elsewhere(exported: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", FORK, str(exported)], capture_output=True, text=True, check=True
    )
    forked, pickled = run.stdout.splitlines()
    assert "forked after its parent had used the GPU" in forked and "'spawn'" in forked
    assert "cannot be pickled" in pickled and "engine='onnxruntime'" in pickled


def test_out_of_memory_halves_the_batch(exported: Path) -> None:
    engine = create(exported)
    expected = engine.embed(many()).vectors("disc")

    def scarce(arrays: Arrays) -> Arrays:
        if len(arrays.get("embed_index", ())) > 1:
            raise RuntimeError("[ONNXRuntimeError] : 6 : Failed to allocate memory for buffer")
        return arrays

    short = with_runner(engine, Watched(engine.runner, scarce))
    assert np.abs(short.embed(many()).vectors("disc") - expected).max() < 1e-5


def test_gen_is_refused_with_what_has_it(exported: Path) -> None:
    with pytest.raises(ModeNotSupported, match="the checkpoint that it was made from"):
        create(exported).embed(["a"], mode="gen")


def test_what_is_no_export_says_how_to_make_one(
    exported: Path, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="ume export"):
        ume_core.load(checkpoint("qwen2_vl"), engine="onnxruntime")
    with pytest.raises(CheckpointError, match="ume export"):
        create("zhibinlan/UME-R1-2B")
    for number, change in enumerate(
        ({"parity": {"passed": False}}, {"format": 99}, {"x": 1}, {"prefix": {}})
    ):
        copy = tmp_path / str(number)
        shutil.copytree(exported, copy)
        manifest = json.loads((copy / MANIFEST).read_text()) | change
        (copy / MANIFEST).write_text(json.dumps(manifest))
        with pytest.raises(CheckpointError, match="export again"):
            create(copy)
    old = json.loads((exported / MANIFEST).read_text()) | {"format": 2}
    del old["prefix"]
    (tmp_path / "0" / MANIFEST).write_text(json.dumps(old))
    with pytest.raises(CheckpointError, match="has format 2; this version reads 4"):
        create(tmp_path / "0")
    (tmp_path / "0" / "onnx" / "text_encoder.onnx").write_bytes(b"no graph")
    shutil.copy(exported / MANIFEST, tmp_path / "0")
    with pytest.raises(CheckpointError, match="not those that were checked"):
        create(tmp_path / "0")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        create(tmp_path / "0", unchecked=True)
    wrong: Any
    for wrong in ({"dtype": "bfloat16"}, {"provider": "x"}, {"provider": "tensorrt"},
                    {"invariant": True}):  # fmt: skip
        with pytest.raises(InvalidOption, match="Fix"):
            ume_core.load(exported, **wrong)


def test_what_would_compute_on_the_cpu_beside_a_gpu_is_named(
    exported: Path, tmp_path: Path
) -> None:
    ort: Any = pytest.importorskip("onnxruntime")  # untyped: it hides what it exports
    options = ort.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    shape = onnx.helper.make_node("Shape", ["x"], ["y"])
    given = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n"])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.INT64, [1])
    model = onnx.helper.make_model(
        onnx.helper.make_graph([shape], "g", [given], [result]),
        opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10,
    )  # fmt: skip
    onnx.save(model, str(tmp_path / "shape.onnx"))
    for path, found in (
        (exported / "onnx" / "vision_encoder.onnx", {"MatMul", "Gemm", "LayerNormalization"}),
        (tmp_path / "shape.onnx", set[str]()),
    ):
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        assigned = session.get_provider_graph_assignment_info()
        assert assigned and found <= set(sessions.computing_on_cpu(assigned))
        assert bool(found) is bool(sessions.computing_on_cpu(assigned))


def test_a_tensorrt_the_provider_cannot_load_is_named() -> None:
    for fine in (None, "10.16.1.11"):
        sessions.check_tensorrt(fine)
    with pytest.raises(InvalidOption, match=r"11\.4\.0\.106 is installed.*links 10.*10\.16\.1\.11"):
        sessions.check_tensorrt("11.4.0.106")


def test_the_manifest_describes_the_artifact(exported: Path) -> None:
    manifest = json.loads((exported / MANIFEST).read_text())
    assert manifest["opset"] == 20 and manifest["precision"] == "float32"
    assert manifest["parity"]["max_difference"] <= 1e-5 == manifest["parity"]["bound"]
    assert len(manifest["parity"]["cases"]) == 7
    assert list(manifest["inputs"]["text_encoder"]) == list(inputs.TEXT_INPUTS)
    assert manifest["inputs"]["vision_encoder"]["pixel_values"] == [
        "FLOAT", ["images", "patches", 1176]
    ]  # fmt: skip
    assert manifest["model"] == "ume-nano"


def test_an_export_leaves_nothing_half_made(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "file").touch()
    assert main(["export", "ume-nano", str(taken)]) == 2
    python = str(find_python())
    target = tmp_path / "killed"
    process = subprocess.Popen(
        [python, "-m", "ume_export", "onnx", str(ume_nano.path()), str(target)],
        stderr=subprocess.PIPE, text=True,
        # Tests that run in the background may ignore Ctrl-C, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if "tracing" in line:
            process.send_signal(signal.SIGINT)
            break
    process.stderr.read()
    assert process.wait() == 130
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


def test_optimums_own_entry_point_makes_the_same_graphs(exported: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from optimum.exporters.onnx import main_export\n"
        "from ume_export.configs import TASKS\n"
        "for graph, task in TASKS.items():\n"
        "    main_export(sys.argv[1], f'{sys.argv[2]}/{graph}', task=task, opset=20,\n"
        "                library_name='transformers')\n"
    )
    command = [str(find_python()), "-c", code, str(ume_nano.path()), str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    ours = tmp_path / "ours"
    shutil.copytree(exported, ours)
    for graph in (inputs.VISION, inputs.TEXT):
        shutil.copy(tmp_path / graph / "model.onnx", ours / "onnx" / f"{graph}.onnx")
    found = create(ours, unchecked=True).embed(many()).vectors("disc")
    expected = create(exported).embed(many()).vectors("disc")
    assert np.abs(found - expected).max() <= 1e-5


@pytest.mark.parametrize(
    ("operator", "kind", "refused"),
    [("ReduceMean", "BFLOAT16", "CUDA"), ("NonZero", "FLOAT", "TensorRT"), ("Exp", "FLOAT", "")],
)
def test_operators_that_a_gpu_does_not_take_are_found(
    operator: str, kind: str, refused: str, tmp_path: Path
) -> None:
    element = onnx.TensorProto.DataType.Value(kind)
    weight = onnx.TensorProto(dims=[2], data_type=element, raw_data=bytes(8), name="w")
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.UNDEFINED, None)
    node = onnx.helper.make_node(operator, ["w"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [], [result], [weight])
    onnx.save(onnx.helper.make_model(graph), str(tmp_path / "graph.onnx"))
    code = (
        "import sys, pathlib\n"
        "from ume_export.operators import check_operators\n"
        "check_operators(pathlib.Path(sys.argv[1]), 'text_encoder')\n"
    )
    command = [str(find_python()), "-c", code, str(tmp_path / "graph.onnx")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (run.returncode == 0) is (refused == "")
    if refused:
        assert f"{operator}, which" in run.stderr and refused in run.stderr


def in_shards(checkpoint: Path, target: Path) -> Path:
    """The checkpoint with its weights in two files, as a 7B's are."""
    shutil.copytree(checkpoint, target)
    weights = load_file(target / "model.safetensors")
    (target / "model.safetensors").unlink()
    names: dict[str, str] = {}
    for number in range(2):
        shard = dict(sorted(weights.items())[number::2])
        name = f"model-{number + 1:05}-of-00002.safetensors"
        save_file(shard, target / name, metadata={"format": "pt"})
        names |= dict.fromkeys(shard, name)
    index = {"metadata": {}, "weight_map": names}
    (target / "model.safetensors.index.json").write_text(json.dumps(index))
    return target


@pytest.mark.parametrize("source", ["published in bfloat16", "stored in float32"])
def test_bfloat16_graphs_are_checked_but_for_their_rounding(
    source: str, checkpoint: Make, tmp_path: Path
) -> None:
    directory = tmp_path / "bfloat16"
    model = ume_nano.path()
    if source == "stored in float32":
        model = in_shards(checkpoint("qwen2_5_vl"), tmp_path / "shards")
    assert main(["export", str(model), str(directory), "-o", "precision=bfloat16"]) == 0
    parity = json.loads((directory / MANIFEST).read_text())["parity"]
    assert parity["max_difference"] <= 1e-5 == parity["bound"]
    assert parity["arithmetic"] == "float32"
    for graph in (inputs.VISION, inputs.TEXT):
        weights = onnx.load(str(directory / "onnx" / f"{graph}.onnx")).graph.initializer
        types = {t.data_type for t in weights if len(t.dims) == 2}
        assert types == {onnx.TensorProto.BFLOAT16}
    with pytest.raises(InvalidOption, match=r"cannot multiply on a CPU.*float32"):
        create(directory)
    assert not list(tmp_path.rglob(".*"))  # neither twin nor rounded weights are left


@pytest.mark.parametrize("precision", ["int8", "float16"])
def test_lower_precisions_are_measured_and_gated(precision: str, tmp_path: Path) -> None:
    directory = tmp_path / precision
    assert main(["export", "ume-nano", str(directory), "-o", f"precision={precision}"]) == 0
    parity = json.loads((directory / MANIFEST).read_text())["parity"]
    assert 1e-6 < parity["max_difference"] <= parity["bound"] and parity["cosine"] > 0.99
    engine = ume_core.load(directory)
    pictures = [Image(path) for path in sorted(Path("tools/gallery").glob("*.png"))[:8]]
    exact = ume_core.load("ume-nano", engine="torch").embed(pictures).vectors("disc")
    assert (engine.embed(pictures).vectors("disc") * exact).sum(axis=1).min() > 0.99
    assert engine.signature("disc").dtype == precision
    assert engine.embed(["a dog"]).vectors("disc").shape == (1, 192)
