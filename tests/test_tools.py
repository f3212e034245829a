"""What the project's own commands promise: set-up, tour, tests of one member."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ume_core
from tools import quickstart, sglang_api, version
from tools.nano import rates
from tools.nano.compare import difference
from tools.nano.evaluate import Cell
from tools.nano.sources import EMOJI_STYLES, WIDER, wider_style
from ume_core import ItemLike

ROOT = Path(__file__).resolve().parents[1]


def recorder(path: Path, status: int = 0) -> str:
    """A command that appends its process id and arguments to a log beside it."""
    path.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        f"with open({str(path) + '.log'!r}, 'a') as log:\n"
        "    log.write(json.dumps([os.getpid(), os.getcwd(), sys.argv]) + '\\n')\n"
        f"sys.exit({status})\n"
    )
    path.chmod(0o755)
    return str(path)


def test_the_tour_runs_the_very_commands_it_prints_each_in_its_own_process(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = recorder(tmp_path / "ume")
    assert quickstart.main(7, ume=command) == 0
    shown = capfd.readouterr().out
    printed = [shlex.split(line[2:]) for line in shown.splitlines() if line.startswith("$ ")]
    log = [json.loads(line) for line in (tmp_path / "ume.log").read_text().splitlines()]
    assert [arguments for _, _, arguments in log] == printed
    assert len({process for process, _, _ in log}) == len(quickstart.TOUR)
    assert {folder for _, folder, _ in log} == {str(ROOT)}
    assert "7 s of which set things up" in shown


def test_the_tour_ends_with_the_first_failing_command(tmp_path: Path) -> None:
    assert quickstart.main(ume=recorder(tmp_path / "ume", status=3)) == 3
    assert len((tmp_path / "ume.log").read_text().splitlines()) == 1


def test_a_silent_command_of_the_tour_is_said_to_be_running(
    capfd: pytest.CaptureFixture[str],
) -> None:
    code = "import time; print('first', flush=True); time.sleep(0.7); print('last')"
    assert quickstart.run([sys.executable, "-c", code], 0.2) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == "first" and lines[-1] == "last"
    assert len(lines) > 2 and all(line.endswith(" s ...") for line in lines[1:-1])


def test_setup_names_what_it_accepts() -> None:
    done = subprocess.run([ROOT / "tools" / "setup", "nothing"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "usage: tools/setup [main|export|floors|gpu|vllm]\n"


def test_setup_refuses_a_python_that_does_not_work_and_keeps_the_environment() -> None:
    environment = {**os.environ, "PYTHON": "/bin/false"}
    done = subprocess.run(
        [ROOT / "tools" / "setup"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1 and "set PYTHON=/path/to/python3" in done.stderr
    assert (ROOT / ".venv" / "bin" / "python").exists()


def test_the_version_tool_prints_the_one_version_and_takes_nothing_else() -> None:
    done = subprocess.run([ROOT / "tools" / "version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == version.read(ROOT / "pyproject.toml")
    done = subprocess.run([ROOT / "tools" / "version", "one two"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr == "usage: tools/version [NEW]\n"


def test_the_rates_beside_the_demonstrations_are_those_of_the_model() -> None:
    """As `python -m tools.nano.rates --gen` measures them."""
    model = ume_core.load("ume-nano", device="cpu")
    found, files = rates.by_name(model)
    similar, clips = rates.by_clip(model)
    titles = " ".join(title for title, _ in quickstart.TOUR)
    assert f"{found} of the {files} files come first for their own name" in titles
    assert f"for {similar} of {clips} clips" in titles
    readme = " ".join((ROOT / "README.md").read_text("utf-8").split())
    assert f"{found} of {files} files come first for their own name (disc)" in readme
    # Greedy text may part at a near tie on another CPU: a summary more or less.
    pictures, *_ = rates.summaries(model, list[ItemLike](rates.FILES))
    texts, *_ = rates.summaries(model, list[ItemLike](rates.TEXTS))
    for measured, stated in (
        (pictures, rf"what gen says of a picture is right for (\d+) of {files}"),
        (pictures, rf"ume-nano is right for (\d+) of {files}"),
        (texts, rf"right for (\d+) of {files} such texts"),
    ):
        assert abs(int(re.findall(stated, readme)[0]) - measured) <= 1, stated
    assert abs(int(re.findall(r"(\d+) of the \d+ summaries", titles)[0]) - pictures) <= 1


@pytest.mark.parametrize("words", [["a", "red", "apple"], ["bus"], ["elephant"]])
def test_what_is_shown_first_is_right(words: list[str]) -> None:
    model = ume_core.load("ume-nano", device="cpu")
    files = model.embed(list[ItemLike](rates.FILES)).vectors("disc")
    best = int(np.argmax(files @ model.embed([" ".join(words)]).vectors("disc")[0]))
    assert rates.NAMES[best] == " ".join(words).removeprefix("a ")


def test_sglangs_stubs_have_the_names_and_types_of_its_sources(tmp_path: Path) -> None:
    for name, text in {
        "arg_groups/fields/serving.py": "class Serving:\n    port: A[Optional[int], 'help'] = 3\n"
        "    kind: A[Literal['a', 'b'], Arg(help='x')] = 'a'\n    other: A[Strange, 'x'] = None\n",
        "sampling/sampling_params.py": "class SamplingParams(Struct):\n    top_p: float = 1.0\n",
        "managers/io_struct.py": "Data = Union[str, List[Strange]]\n",
        "managers/schedule_batch.py": "Mode = Union[bool, Literal['last']]\n",
        "entrypoints/engine.py": "class Engine(Base):\n    async def async_generate(self, "
        "sampling_params: Optional[Dict] = None, data: Optional[Data] = None, "
        "mode: Mode = False) -> Union[Dict, AsyncIterator[Dict]]:\n        pass\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, "utf-8")
    lines = [line.strip() for line in sglang_api.stubs(tmp_path).splitlines()]
    assert "port: Optional[int] = ...," in lines and "other: Any = ...," in lines
    assert "kind: Literal['a', 'b'] = ...," in lines and "top_p: float" in lines
    assert lines[-1] == (
        "async def async_generate(self, sampling_params: Optional[SamplingParams]=None, "
        "data: Optional[Union[str, List[Any]]]=None, mode: Union[bool, Literal['last']]=False) "
        "-> Union[Dict, AsyncIterator[Dict]]:    ..."
    )


def cell(concepts: str, hits: str, mode: str = "disc") -> Cell:
    return Cell(concepts, "seen", "", "", mode, len(hits), 0, 0, 0, 0, 0, 0, hits)


def test_evaluations_are_compared_query_by_query() -> None:
    before = [cell("seen", "10" * 50), cell("seen", "10" * 50, "gen"), cell("scenes", "1000")]
    better = [cell("seen", "11" * 50), cell("seen", "10" * 50, "gen"), cell("scenes", "1000")]
    value, low, high = difference(before, better)
    assert value == pytest.approx(100 * 50 / 204)
    # A query is drawn with both its cells: one of two is half a query's change, sd of a share 0.05.
    assert low == pytest.approx(value - 1.96 * 5 * 100 / 204, abs=0.6)
    assert high == pytest.approx(value + 1.96 * 5 * 100 / 204, abs=0.6)
    assert difference(before, before) == (0, 0, 0)


def test_no_icon_set_takes_the_name_of_an_emoji_style() -> None:
    """Else its pictures would be looked up among the other's: Fluent has icons and emoji."""
    icons = {"tabler", "lucide", "mdi", "game-icons", *map(wider_style, WIDER)}
    assert not icons & {*EMOJI_STYLES, *EMOJI_STYLES.values()}
