"""Registration: duplicates, unknown hooks, broken plugins, lazy loading."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Any

import pytest

from ume_core import EngineUnavailable, InvalidOption, PluginError, SignatureMismatch, load
from ume_core.hookspecs import BackendSpec, ModelSpec, has_gpu, hookimpl
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


def test_an_unknown_hook_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    @hookimpl
    def ume_modles() -> list[ModelSpec]:
        return []

    with pytest.raises(PluginError, match="ume_modles"):
        build_registry([point(monkeypatch, "typo", ume_modles=ume_modles)])


def test_a_plugin_that_does_not_import_is_listed_and_the_rest_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = EntryPoint("broken", "no_such_module_here", "ume")
    found = build_registry([broken, point(monkeypatch, "good", ume_models=ume_models)])
    assert "no_such_module_here" in found.broken["broken"]
    assert list(found.models) == ["m"]


def test_a_backend_says_what_it_misses() -> None:
    spec = BackendSpec("x", frozenset({"disc"}), "a:b", "", ("no_such_module",), "pip install x")
    assert spec.missing() == "needs no_such_module (pip install x)"
    gpu = BackendSpec("x", frozenset({"disc"}), "a:b", "", ("json",), "pip install x", gpu=True)
    assert gpu.missing() == (None if has_gpu() else "needs an NVIDIA GPU")
    inner = BackendSpec("x", frozenset({"disc"}), "a:b", "", ("no_such.inner",))
    assert inner.missing() is not None


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
    monkeypatch.setitem(sys.modules, __name__, sys.modules[unavailable.__module__])
    monkeypatch.setattr("ume_core.loading.registry", lambda: found)
    assert isinstance(load("x"), FakeEmbedder)
    with pytest.raises(EngineUnavailable, match="another machine"):
        load("x", engine="best")
    found.backends.pop("next")
    with pytest.raises(EngineUnavailable, match="another machine"):
        load("x")


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
