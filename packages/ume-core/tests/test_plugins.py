"""Registration: duplicates, unknown hooks, broken plugins, lazy loading."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ume_core import (
    CheckpointError,
    EngineUnavailable,
    InvalidOption,
    PluginError,
    SignatureMismatch,
    hookspecs,
    load,
)
from ume_core.hookspecs import BackendSpec, ModelSpec, hookimpl
from ume_core.options import LoadOptions, describe_options, make_options
from ume_core.plugins import Registry, build_registry
from ume_core.signature import Mode, check_mode
from ume_core.testing import FakeEmbedder


def point(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> EntryPoint:
    module = ModuleType(f"plugin_{name}")
    for key, value in members.items():
        setattr(module, key, value)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return EntryPoint(name, module.__name__, "ume")


@hookimpl
def ume_models() -> list[ModelSpec]:
    return [ModelSpec("m", "a:b", "a model")]


def test_names_are_unique_and_both_owners_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [point(monkeypatch, name, ume_models=ume_models) for name in ("first", "second")]
    with pytest.raises(PluginError, match=r"'m' is registered by both first and second"):
        build_registry(points)


def test_a_slip_in_a_plugin_is_listed_and_the_rest_work(monkeypatch: pytest.MonkeyPatch) -> None:
    @hookimpl
    def ume_modles() -> list[ModelSpec]:
        return []

    def unmarked() -> list[ModelSpec]:
        return []

    points = [
        point(monkeypatch, "typo", ume_modles=ume_modles),
        point(monkeypatch, "unmarked", ume_models=unmarked),
        point(monkeypatch, "sound", ume_models=ume_models),
    ]
    found = build_registry(points)
    assert list(found.models) == ["m"]
    assert "ume_modles" in found.broken["typo"] and "ume_models" in found.broken["typo"]
    assert "@hookimpl" in found.broken["unmarked"]
    assert "typo (" in found.broken_note()


def test_a_reference_that_names_nothing_says_whose_it_is() -> None:
    with pytest.raises(PluginError, match="'json:lods', and json has no 'lods'"):
        hookspecs.resolve("json:lods")


def test_a_plugin_that_does_not_import_is_listed_and_the_rest_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = EntryPoint("broken", "no_such_module_here", "ume")
    found = build_registry([broken, point(monkeypatch, "good", ume_models=ume_models)])
    assert "no_such_module_here" in found.broken["broken"]
    assert list(found.models) == ["m"]


def test_a_backend_says_what_it_misses() -> None:
    disc = frozenset[Mode]({"disc"})
    spec = BackendSpec("x", disc, "a:b", "", requires=("no_such_module",), install="pip install x")
    assert spec.missing() == "needs no_such_module (pip install x)"
    assert BackendSpec("x", disc, "a:b", "", requires=("json",)).missing() is None
    assert BackendSpec("x", disc, "a:b", "", requires=("no_such.inner",)).missing() is not None
    checked = BackendSpec("x", disc, "a:b", "", requires=("json",), check=f"{__name__}:no_tpu")
    assert checked.missing() == "needs a TPU"


def no_tpu() -> str | None:
    return "needs a TPU"


def unavailable(*_: object) -> None:
    raise EngineUnavailable("built for another machine", fix="build it again")


def fake(*_: object) -> FakeEmbedder:
    return FakeEmbedder()


def test_auto_goes_on_to_the_next_engine_where_one_cannot_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disc = frozenset[Mode]({"disc"})
    found = Registry(
        backends={
            "best": BackendSpec("best", disc, f"{__name__}:unavailable", "", priority=2),
            "next": BackendSpec("next", disc, f"{__name__}:fake", "", priority=1),
        }
    )
    monkeypatch.setattr("ume_core.loading.registry", lambda: found)
    assert isinstance(load("x"), FakeEmbedder)
    with pytest.raises(EngineUnavailable, match="another machine"):
        load("x", engine="best")
    found.backends.pop("next")
    with pytest.raises(EngineUnavailable, match="another machine"):
        load("x")


def only_x(model: object, device: str) -> str | None:
    return None if (model, device) == ("x", "auto") else f"loads x alone, not {model} on {device}"


@dataclass(frozen=True)
class Speed:
    """Options.

    Attributes:
        fast: whether to hurry.
        lanes: how many at once,
            side by side.
    """

    fast: bool = False
    lanes: int = 1


def test_an_engine_is_taken_that_can_load_the_model_and_knows_the_options(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    disc = frozenset[Mode]({"disc"})
    found = Registry(
        backends={
            "picky": BackendSpec(
                "picky", disc, f"{__name__}:fake", "", can_load=f"{__name__}:only_x", priority=2,
            ),
            "speedy": BackendSpec(
                "speedy", disc, f"{__name__}:fake", "", options=f"{__name__}:Speed",
                can_load=f"{__name__}:only_x",
            ),
        }
    )  # fmt: skip
    monkeypatch.setattr("ume_core.loading.registry", lambda: found)
    assert isinstance(load("x", lanes=2), FakeEmbedder)
    with pytest.raises(CheckpointError, match=r"picky loads x alone, not y on cpu; speedy"):
        load("y", device="cpu")
    with pytest.raises(EngineUnavailable, match="picky loads x alone"):
        load(tmp_path)
    with pytest.raises(InvalidOption, match=r"picky engine has no option 'lanes'"):
        load("x", engine="picky", lanes=2)
    with pytest.raises(InvalidOption, match=r"no option 'lane'.*use: fast, lanes"):
        load("x", engine="speedy", lane=2)
    with pytest.raises(InvalidOption, match="lanes is 'many'"):
        load("x", engine="speedy", lanes="many")


def test_options_are_converted_from_strings_and_described() -> None:
    assert make_options("x engine", Speed, {"fast": "true", "lanes": "3"}) == Speed(True, 3)
    for name, value in (("fast", "yes"), ("fast", 1), ("lanes", True), ("lanes", "1.5")):
        with pytest.raises(InvalidOption, match=f"{name} is .*Fix: pass"):
            make_options("x engine", Speed, {name: value})
    fast, lanes = describe_options(Speed)
    assert (fast.name, fast.default, fast.text) == ("fast", False, "whether to hurry.")
    assert lanes.text == "how many at once, side by side."
    assert all(option.text for option in describe_options(LoadOptions))


def test_signatures_compare_by_what_decides_vectors() -> None:
    mine = FakeEmbedder().signature("disc")
    other = FakeEmbedder(dimensions=16).signature("disc")
    with pytest.raises(SignatureMismatch, match="dimensions: 8 != 16"):
        mine.check(other)
    assert type(mine).from_dict(mine.to_dict()) == mine
    assert mine.digest != mine.for_mode("gen").digest
    with pytest.raises(SignatureMismatch, match="fields"):
        type(mine).from_dict({"model": "x"})


def test_an_unknown_mode_lists_the_known_ones() -> None:
    with pytest.raises(InvalidOption, match="disc, gen, both"):
        check_mode("disk")
