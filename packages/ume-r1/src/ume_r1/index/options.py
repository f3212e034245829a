"""How the model of an index is loaded, kept as JSON so that it can be loaded the same way again."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ume_core.conventions import conventions_in_force
from ume_core.embedder import Embedder
from ume_core.limits import Limits
from ume_core.loading import locate
from ume_core.options import LoadOptions, option_names
from ume_core.prompts import get_prompt
from ume_core.signature import Signature
from ume_r1.loading import load

# Options that belong to the machine or to one run: they do not decide vectors (an index is made on
# one machine and searched on another), or they are not the index's to keep.
_NOT_KEPT = frozenset(("name", "policy", "device"))
# Choices of a bundle of conventions; in the signature they stand as they were in force.
_OF_CONVENTIONS = ("prompt", "text_only", "media_order", "frame_lists")
_SHARED = frozenset(option_names(LoadOptions))
_OF_THINKING = ("thinking", "thinking_tokens")


@dataclass(frozen=True)
class Asked:
    """A model as it was asked for.

    Attributes:
        model: alias, directory or hub id; None where the caller named none.
        engine: the engine's name, or `auto`.
        options: what was given of `LoadOptions` and the engine's own options, by name.
    """

    model: str | None = None
    engine: str = "auto"
    options: dict[str, Any] = field(default_factory=dict[str, Any])

    def load(self) -> Embedder:
        """Load the model.

        Raises:
            UmeError: as `ume_core.load`.
        """
        named = {} if self.model is None else {"model": self.model}
        return load(**named, engine=self.engine, **self._options())

    def load_options(self) -> LoadOptions:
        """The options that every engine obeys, those not given at their defaults."""
        return LoadOptions(
            **{name: value for name, value in self._options().items() if name in _SHARED}
        )

    def engine_options(self) -> dict[str, Any]:
        """The engine's own options among those that were given, by name."""
        return {name: value for name, value in self.options.items() if name not in _SHARED}

    def _options(self) -> dict[str, Any]:
        limits = self.options.get("limits")
        changed = {"limits": Limits(**limits)} if isinstance(limits, dict) else {}
        return self.options | changed

    def over(self, stored: Asked) -> Asked:
        """This request, with what it leaves open taken from `stored`."""
        given = {k: v for k, v in self.options.items() if v not in (None, "auto")}
        return Asked(
            self.model or stored.model,
            stored.engine if self.engine == "auto" else self.engine,
            stored.options | given,
        )

    def differences(self, stored: Asked, signature: Signature) -> list[str]:
        """What can be known to give other vectors without loading, as `name: stored != asked`.

        Args:
            stored: the request an index was made with.
            signature: its vectors' signature.
        """
        found: list[str] = []
        if self.model is not None and _surely_other(self.model, stored.model or ""):
            found.append(f"model: {stored.model} != {self.model}")
        defaults = asdict(LoadOptions())
        for name, value in self._choices().items():
            if name not in defaults or name in (*_NOT_KEPT, "aligned") or value in (None, "auto"):
                continue  # an engine's own options decide no vectors
            if name in _OF_THINKING and signature.mode == "disc":
                continue
            if name in _OF_CONVENTIONS:
                held: Any = getattr(signature, name)
            else:
                held = stored.options.get(name, defaults.get(name))
            if held != _plain(value):
                found.append(f"{name}: {held} != {value}")
        return found

    def _choices(self) -> dict[str, Any]:
        """The options, with the single choices that a bundle of conventions stands for."""
        choices = dict(self.options)
        bundle = choices.pop("conventions", None)
        if bundle is not None:
            made = conventions_in_force(LoadOptions(conventions=bundle), None)
            named = {name: getattr(made, name) for name in _OF_CONVENTIONS}
            choices = named | {"prompt": made.prompt.name} | choices
        if choices.get("prompt") is not None:
            choices["prompt"] = get_prompt(choices["prompt"]).name
        return choices

    def lasting_name(self, default: str) -> str:
        """The model's name in a form that means the same from every working directory."""
        name = self.model or default
        location, alias = locate(name)
        if alias is None and Path(location).exists():  # a directory, or what a foreign engine loads
            return str(Path(location).resolve())
        return name


def options_to_json(options: LoadOptions) -> dict[str, Any]:
    """The options that decide vectors and differ from their defaults, as JSON values."""
    default = LoadOptions()
    return {
        f.name: _plain(getattr(options, f.name))
        for f in fields(options)
        if f.name not in _NOT_KEPT and getattr(options, f.name) != getattr(default, f.name)
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Limits):
        return asdict(value)
    return str(value) if isinstance(value, Path) else value


def _surely_other(asked: str, stored: str) -> bool:
    """Whether two names cannot mean the same weights.

    A directory may hold any model, and only its weights tell; aliases and hub ids are what they
    name, and a model that is not the stored one must not be downloaded to find that out.
    """
    (here, alias), (there, stored_alias) = locate(asked), locate(stored)
    if str(here) == str(there):
        return False
    is_here = alias is None and Path(here).exists()
    was_here = stored_alias is None and Path(stored).is_absolute()
    # What is on the disk is cheap to look at. What would be downloaded must be known to fit first.
    return not is_here and not (was_here and Path(here).exists())
