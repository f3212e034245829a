"""Any UME engine behind a `SentenceTransformer`: gen, both engines' disc, every input shape.

What the native directory (see `native`) cannot: gen with its thinking, engines other than PyTorch,
lists that mix messages with strings (sentence-transformers 6.2 renders those wrongly), and prompts
as task instructions in the user turn, where the model was trained to see them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules.input_module import InputModule
from torch import Tensor

from ume_core import Embedder
from ume_core import load as load_embedder
from ume_core.errors import InvalidOption, UmeError
from ume_core.signature import Mode

_CONFIG = "ume_config.json"


class UmeModule(InputModule):
    """The one module of such a model.

    Attributes:
        embedder: the engine.
        mode: `disc` or `gen`.
    """

    save_in_root = True

    def __init__(
        self, embedder: Embedder, mode: Mode = "disc", source: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        if mode not in ("disc", "gen"):
            raise InvalidOption(
                f"mode is {mode!r}", fix="use disc or gen; for both, load the model twice"
            )
        if mode not in embedder.modes:
            raise InvalidOption(
                f"the {embedder.name} engine has no {mode} mode", fix='use engine="torch"'
            )
        self.embedder = embedder
        self.mode: Mode = mode
        self._source = source
        # sentence-transformers asks a model's first parameter for its device.
        self._where: Tensor
        self.register_buffer("_where", torch.zeros(1), persistent=False)

    def __getstate__(self) -> dict[str, Any]:
        """How it was loaded, not the weights: a copy, as in a process pool, loads it again.

        Raises:
            InvalidOption: it was built around an engine that cannot be named in a file.
        """
        if self._source is None:
            raise InvalidOption(
                "this model cannot be saved or sent to another process",
                fix="make it with load(name, ...) and options that are strings or numbers",
            )
        return {**self._source, "mode": self.mode}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """From `__getstate__`'s form."""
        source = {name: state[name] for name in ("model", "engine", "options")}
        embedder = load_embedder(source["model"], engine=source["engine"], **source["options"])
        self.__init__(embedder, state["mode"], source)

    @property
    def modalities(self) -> list[Any]:
        """Everything an item can be."""
        return ["text", "image", "video", "message", ("image", "text"), ("text", "video")]

    def preprocess(
        self, inputs: Sequence[Any], prompt: str | None = None, **_: Any
    ) -> dict[str, Any]:
        """Keep the inputs; the engine prepares them itself. A prompt becomes the instruction."""
        return {"ume_items": list(inputs), "ume_instruction": prompt, "modality": "message"}

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Add `sentence_embedding` float32 (items, dim) and `ume_record`, one per item.

        The records, with the thinking, are what `encode(..., output_value="ume_record")` returns.
        """
        items = features["ume_items"]
        try:
            result = self.embedder.embed(
                items, mode=self.mode, instruction=features["ume_instruction"]
            )
        except UmeError as error:
            if error.item is not None:  # of a batch that sentence-transformers sorted
                error.cause = f"{repr(items[error.item])[:80]}: {error.cause}"
                error.item = None
            raise
        vectors: Tensor = torch.from_numpy(result.vectors(self.mode))
        return {
            "sentence_embedding": vectors.to(self._where.device),
            "ume_record": list(result.records),
        }

    def get_embedding_dimension(self) -> int:
        """Length of a vector."""
        return self.embedder.dimensions

    get_sentence_embedding_dimension = get_embedding_dimension

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Write how it was loaded, not the weights.

        Raises:
            InvalidOption: see `__getstate__`.
        """
        (Path(output_path) / _CONFIG).write_text(json.dumps(self.__getstate__(), indent=2), "utf-8")

    @classmethod
    def load(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, model_name_or_path: str, **where: Any
    ) -> UmeModule:
        """What `save` wrote (sentence-transformers asks for trust_remote_code=True first)."""
        known = ("subfolder", "token", "cache_folder", "revision", "local_files_only")
        config = cls.load_config(
            model_name_or_path, config_filename=_CONFIG,
            **{name: value for name, value in where.items() if name in known},
        )  # fmt: skip
        made = cls.__new__(cls)
        made.__setstate__(config)
        return made


def load(
    model: str | Path | Embedder = "ume-r1",
    *,
    mode: Mode = "disc",
    engine: str = "auto",
    **options: Any,
) -> SentenceTransformer:
    """A `SentenceTransformer` around a UME engine.

    Args:
        model: an alias, checkpoint directory, hub id, exported directory, or a loaded embedder.
        mode: `disc` or `gen`.
        engine: as in `ume_core.load`.
        options: fields of `LoadOptions`.
    """
    source: dict[str, Any] | None = None
    if isinstance(model, (str, Path)):
        embedder = load_embedder(model, engine=engine, **options)
        name = str(Path(model).resolve()) if Path(model).is_dir() else str(model)
        plain = all(isinstance(v, (str, int, float, bool, type(None))) for v in options.values())
        source = {"model": name, "engine": engine, "options": options} if plain else None
    else:
        embedder = model
    module = UmeModule(embedder, mode, source)
    made = SentenceTransformer(modules=[module], device="cpu")
    made.similarity_fn_name = "cosine"
    return made
