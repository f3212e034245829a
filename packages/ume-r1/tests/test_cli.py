"""What typing `ume` feels like: suggestions, settings, quiet, JSON, the time it takes."""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ume_r1
from ume_core.hookspecs import CommandSpec
from ume_core.plugins import registry
from ume_r1.arguments import Parser
from ume_r1.cli import main, parser_of
from ume_r1.settings import setting

Run = Callable[..., tuple[int, str, str]]
UME = [sys.executable, "-m", "ume_r1"]


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither the environment's nor the user's."""
    for name in [n for n in os.environ if n.startswith("UME_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("serach", "unknown command 'serach'. Did you mean 'search'?"),
        ("--hepl", "unknown option '--hepl'. Did you mean '--help'?"),
        ("embed --text a --model ume-nanno", "did you mean 'ume-nano'?"),
        ("embed --text a --engine onnx", "did you mean 'onnxruntime'?"),
        ("embed --text a --mode dics", "Did you mean 'disc'?"),
        ("embed --text a -o pakc_tokens=3", "did you mean 'pack_tokens'?"),
        ("explain --text a --mode disc", "unknown option '--mode'. Did you mean '--model'?"),
        ("search i dog --to 3", "unknown option '--to'"),
        ("models all", "unexpected argument 'all'"),
        ("plugins torhc", "did you mean 'torch'?"),
        ("export ume-nano x --format onxn", "did you mean 'onnx'?"),
    ],
)
def test_a_slip_is_answered_with_what_was_meant(
    arguments: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments.split()) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) <= 2


def test_no_option_is_guessed_from_its_beginning() -> None:
    for spec in registry().commands.values():
        assert not parser_of(spec).allow_abbrev


def test_an_error_of_use_shows_one_line_of_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search"]) == 2
    error = capsys.readouterr().err
    assert error == (
        "ume search: the following arguments are required: index\n"
        "usage: ume search INDEX [WORDS ...] [OPTIONS]\n"
    )
    assert main(["index", "x"]) == 2
    assert "usage: ume index FOLDER --to INDEX [OPTIONS]" in capsys.readouterr().err


def test_every_command_has_help_with_examples_that_parse(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for spec in registry().commands.values():
        if spec.arguments.startswith("ume_r1."):
            parser = parser_of(spec)
            assert (parser.epilog or "").startswith("examples:"), spec.name
    assert main(["help"]) == main(["--help"]) == 0
    overview = capsys.readouterr().out
    assert all(f"  {name} " in overview for name in registry().commands)
    with pytest.raises(SystemExit) as ended:
        main(["help", "search"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0 and "xargs -0" in shown
    assert shown.startswith("usage: ume search INDEX [WORDS ...] [OPTIONS]\n")


def plugged_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-v", type=int, default=7)
    parser.add_argument("--port", type=int, required=True)


def plugged_run(args: argparse.Namespace) -> int:
    return args.port + args.v + args.quiet


def test_a_plugins_command_may_have_a_v_of_its_own() -> None:
    spec = CommandSpec("x", "serve", f"{__name__}:plugged_arguments", f"{__name__}:plugged_run")
    assert plugged_run(parser_of(spec).read(["--port", "3", "-q"])) == 11


def test_quiet_and_verbose_may_stand_before_or_after_the_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for arguments in (["-q", "models"], ["models", "--quiet"]):
        assert main(arguments) == 0
        said = capsys.readouterr()
        assert "ume-nano" in said.out and not said.err
    assert main(["models"]) == 0
    assert "hub id works" in capsys.readouterr().err
    done = subprocess.run(
        [*UME, "-v", "embed", "--text", "a"], capture_output=True, text=True, check=True
    )
    assert "INFO ume_core.loading: ume-nano" in done.stderr and json.loads(done.stdout)


def test_settings_come_from_options_then_the_environment_then_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert setting("model") is None
    file = tmp_path / "mine.toml"
    file.write_text('model = "from-file"\ndevice = "cuda:1"\n')
    monkeypatch.setenv("UME_CONFIG", str(file))
    assert (setting("model"), setting("device"), setting("engine")) == (
        "from-file", "cuda:1", None,
    )  # fmt: skip
    monkeypatch.setenv("UME_MODEL", "from-environment")
    assert setting("model") == "from-environment"


def test_settings_reach_the_model_and_options_win(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UME_MODEL", "no-such-model")
    assert main(["embed", "--text", "a"]) == 2
    assert "no-such-model" in capsys.readouterr().err
    monkeypatch.setenv("UME_ENGINE", "onnxruntime")
    assert main(["embed", "--text", "a", "--model", "ume-nano"]) == 0
    monkeypatch.setenv("UME_DEVICE", "abacus")
    assert main(["embed", "--text", "a", "--model", "ume-nano"]) == 2
    assert main(["embed", "--text", "a", "--model", "ume-nano", "--device", "cpu"]) == 0


def test_settings_do_not_reach_an_index_that_has_its_own(
    folder: Path, tmp_path: Path, run: Run, loads: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    index = tmp_path / "index"
    monkeypatch.setenv("UME_MODEL", "mine")
    monkeypatch.setenv("UME_ENGINE", "special")
    monkeypatch.setenv("UME_DTYPE", "float32")
    assert run("index", folder, "--to", index)[0] == 0
    monkeypatch.setenv("UME_MODEL", "other")
    monkeypatch.setenv("UME_ENGINE", "other")
    monkeypatch.setenv("UME_DEVICE", "cuda:1")
    monkeypatch.setenv("UME_DTYPE", "bfloat16")
    assert run("search", index, "a", "dog")[0] == 0
    asked = [(load["model"], load["engine"], load.get("device")) for load in loads]
    assert asked == [("mine", "special", "auto"), ("mine", "special", "cuda:1")]


@pytest.mark.parametrize(
    ("text", "said"),
    [("modle = 'x'", "did you mean 'model'?"), ("model = 3", "write a string"), ("?", "mend")],
)
def test_a_wrong_file_of_settings_is_named(
    text: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    file = tmp_path / "config" / "ume" / "config.toml"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    assert main(["embed", "--text", "a"]) == 2
    error = capsys.readouterr().err
    assert said in error and str(file) in error
    monkeypatch.setenv("UME_CONFIG", str(tmp_path / "gone.toml"))
    assert main(["embed", "--text", "a"]) == 2
    assert "gone.toml" in capsys.readouterr().err


def test_listings_and_searches_are_json_for_programs(
    folder: Path, tmp_path: Path, run: Run
) -> None:
    index = tmp_path / "index"
    names = [row["name"] for row in json.loads(run("models", "--json")[1])]
    assert "ume-nano" in names
    rows = json.loads(run("plugins", "--json")[1])
    assert {"engine", "model", "command"} <= {row["kind"] for row in rows}
    assert {"name", "default", "text"} == set(json.loads(run("plugins", "torch", "--json")[1])[0])
    made = json.loads(run("index", folder, "--to", index, "--json")[1])
    assert (made["items"], made["embedded"], made["skipped"]) == (6, 6, {})
    found = json.loads(run("search", index, "x", "--json", "--mode", "disc")[1])
    assert len(found["hits"]) == 5 and found["query"]["mode"] == "disc"
    first = found["hits"][0]
    assert Path(first["path"]) == folder / first["name"] and not first["gone"]


def test_a_search_is_narrowed_by_kind_folder_and_score(
    folder: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = tmp_path / "index"
    run("index", folder, "--to", index)

    def names(*options: str | Path) -> set[str]:
        said = run("search", index, "the note", "of a", "--top", "20", "--json", *options)[1]
        return {hit["name"] for hit in json.loads(said)["hits"]}

    assert names("--kind", "text") == {"a/note.txt", "b/note.txt"}
    for under in ("a", "a/", folder / "a"):
        assert names("--under", under) == {"a/p0.png", "a/p1.png", "a/note.txt"}
    assert names("--under", "a", "--kind", "image") == {"a/p0.png", "a/p1.png"}
    assert names("--min-score", "0.999") == {"a/note.txt"}  # unquoted words are one text
    assert names("--min-score", "1.1") == set()
    status, _, error = run("search", index, "x", "--under", "/elsewhere")
    assert status == 2 and "is not in" in error
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, "ascii"))
    assert main(["search", str(index), "x", "-0", "--kind", "text"]) == 0
    paths = printed.getvalue().split(b"\0")
    assert set(paths) == {bytes(folder / "a/note.txt"), bytes(folder / "b/note.txt"), b""}


def test_a_missing_picture_is_told_before_a_model_is_loaded(
    folder: Path, tmp_path: Path, run: Run, loads: list[dict[str, Any]]
) -> None:
    run("index", folder, "--to", tmp_path / "index")
    status, _, error = run("search", tmp_path / "index", "--image", "gone.png")
    assert status == 2 and "no such file: gone.png" in error and len(loads) == 1
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "ume_r1", "embed", "gone.png"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and "no such file: gone.png" in done.stderr
    assert not {"onnxruntime", "torch", "lancedb"} & {
        line.rpartition("|")[2].strip() for line in done.stderr.splitlines()
    }


def test_versions_and_completion(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == ume_r1.__version__
    for shell in ("bash", "zsh", "fish"):
        assert main(["completion", shell]) == 0
        assert "ume" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "offered"), [("ume se", "search"), ("ume search --min", "--min-score")]
)
def test_the_shell_is_told_what_may_come_next(line: str, offered: str, tmp_path: Path) -> None:
    out = tmp_path / "completions"
    environment = os.environ | {
        "_ARGCOMPLETE": "1", "_ARGCOMPLETE_STDOUT_FILENAME": str(out), "COMP_LINE": line,
        "COMP_POINT": str(len(line)), "_ARGCOMPLETE_SUPPRESS_SPACE": "1",
    }  # fmt: skip
    subprocess.run([*UME], env=environment, check=False, capture_output=True)
    assert offered in out.read_text().split("\x0b")


def cpu_seconds(*command: str) -> float:
    """CPU time of a process, the lesser of two: the machine may be busy with other things."""

    def once() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return min(once() for _ in range(2))


def test_help_is_there_at_once() -> None:
    assert cpu_seconds(*UME, "--help") < 0.3  # 0.1 s where nothing else runs


def test_a_search_of_a_small_index_takes_a_second(folder: Path, tmp_path: Path) -> None:
    index = str(tmp_path / "index")
    subprocess.run([*UME, "index", str(folder), "--to", index], check=True, capture_output=True)
    assert cpu_seconds(*UME, "search", index, "a", "dog") < 3  # 0.85 s where nothing else runs
    code = (
        "import sys; from ume_r1.cli import main; main(sys.argv[1:])\n"
        "print(sorted({'torch', 'transformers', 'lancedb', 'pandas', 'rich', 'av'} &"
        " set(sys.modules)))"
    )
    for arguments, loaded in (
        (("search", index, "a", "dog"), "[]"),
        (("index", str(folder), "--to", index), "['rich']"),  # nothing changed
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines()[-1] == loaded


def test_parsers_of_subcommands_are_as_forgiving() -> None:
    parser = Parser("ume x")
    parser.set_defaults(subcommands=True)
    sub: Any = parser.add_subparsers(dest="study", required=True).add_parser("one")
    sub.add_argument("--seed", type=int)
    assert parser.read(["one", "--seed", "3"]).seed == 3
    assert isinstance(sub, Parser) and not sub.allow_abbrev
