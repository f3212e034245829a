"""`ume-index.json`: what an index holds, how its model is loaded and which files are its own."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from ume_core.embedder import Embedder
from ume_core.errors import InvalidOption, SignatureMismatch, UmeError
from ume_core.options import LoadOptions
from ume_core.signature import Mode, Signature, check_mode
from ume_r1.index.disk import is_local, write_whole
from ume_r1.index.errors import DamagedIndex, disk_error
from ume_r1.index.folders import FolderLike, folder_at, is_uri
from ume_r1.index.options import Asked, options_to_json
from ume_r1.index.rows import schema_of

NAME = "ume-index.json"
FORMAT = 4
_NESTED = ("signature", "sealed", "snapshot")


@dataclass(frozen=True)
class SealedFile:
    """A file of the table as it was when a run ended.

    Attributes:
        size: bytes.
        digest: BLAKE2b of its content, hexadecimal.
    """

    size: int
    digest: str


@dataclass(frozen=True)
class Description:
    """What an index holds, as stored in `ume-index.json`.

    Attributes:
        folder: the indexed folder: an absolute path, or the URI of one on an object store.
        model: the model's name as it was asked for: an alias, a directory or a hub id.
        mode: of the stored vectors.
        signature: of the stored vectors.
        options: load options that decide vectors, as JSON values.
        engine: the engine's name as it was asked for, or `auto`.
        beside: the folder's path from the index directory, for an index moved with its folder.
        generation: number of the table in use; a rewritten table gets the next one.
        sealed: files of that table when the last run ended, by their path in it.
        snapshot: the copy of its rows (`snapshot.NAME`), where there is one.
    """

    folder: str
    model: str
    mode: Mode
    signature: Signature
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    engine: str = "auto"
    beside: str = ""
    generation: int = 1
    sealed: dict[str, SealedFile] = field(default_factory=dict[str, SealedFile])
    snapshot: SealedFile | None = None

    @classmethod
    def of(
        cls,
        model: Embedder,
        folder: FolderLike,
        mode: Mode,
        *,
        name: str,
        engine: str = "auto",
        options: LoadOptions | None = None,
    ) -> Description:
        """Describe an index of vectors of a loaded model.

        Args:
            model: the embedder.
            folder: the folder to index.
            mode: of the vectors.
            name, engine, options: what the model was loaded by, for loading it again.
        """
        signature = model.signature(mode)
        stored = options_to_json(options or LoadOptions()) | {"dtype": signature.dtype}
        return cls(folder_at(folder).name, name, mode, signature, stored, engine)

    @property
    def schema(self) -> pa.Schema:
        """Columns of the table."""
        return schema_of(self.mode, self.signature.dimensions)

    @property
    def asked(self) -> Asked:
        """How the model is loaded again."""
        return Asked(self.model, self.engine, dict(self.options))

    def write(self, directory: Path) -> None:
        """Write the file in one step, on disk when this returns.

        Raises:
            InvalidOption: the disk refuses it.
        """
        both = is_local(directory) and not is_uri(self.folder)
        beside = os.path.relpath(self.folder, directory.resolve()) if both else ""
        stored = _to_json(replace(self, beside=beside))
        stored["digest"] = _digest(stored)
        write_whole(directory / NAME, (json.dumps(stored, indent=1) + "\n").encode())


def read_description(directory: Path) -> Description:
    """Read `ume-index.json`.

    Raises:
        InvalidOption: the directory holds no index, or one of another version.
        DamagedIndex: the file is not as it was written.
    """
    path = directory / NAME
    rebuild = f"ume index FOLDER --to {directory} --rebuild, with the --model and --mode it had"
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InvalidOption(
            f"{directory} is not an index", fix=f"create one: ume index FOLDER --to {directory}"
        ) from error
    except IsADirectoryError as error:
        raise DamagedIndex(directory, NAME, fix=rebuild) from error
    except OSError as error:
        raise disk_error(error, path) from error
    try:
        stored = json.loads(data)
        version = stored.get("format", stored.get("version"))
    except (ValueError, AttributeError, RecursionError) as error:
        raise DamagedIndex(directory, NAME, fix=rebuild) from error
    if version is None:
        raise DamagedIndex(directory, NAME, fix=rebuild)
    if version != FORMAT:
        raise InvalidOption(
            f"{directory} has index format {version}, and this version reads {FORMAT}",
            fix=f"make it anew: {_remake(directory, stored)}",
        )
    if stored.pop("digest", None) != _digest(stored):
        raise DamagedIndex(directory, NAME, fix=rebuild)
    try:
        about = _from_json(stored)
        # An object store keeps its own digests, and a copy there has lost the disk's.
        return about if is_local(directory) else replace(about, sealed={}, snapshot=None)
    except (KeyError, TypeError, AttributeError, UmeError) as error:
        raise DamagedIndex(directory, NAME, fix=rebuild) from error


def _remake(directory: Path, stored: dict[str, Any]) -> str:
    """The command that makes an index anew, with what an older description says of it."""
    folder = str(stored.get("folder", "FOLDER"))
    kept = [f"--{name}={stored[name]}" for name in ("model", "mode") if name in stored]
    return shlex.join(["ume", "index", folder, "--to", str(directory), "--rebuild", *kept])


def check_asked(directory: Path, stored: Description, asked: Asked, mode: Mode | None) -> None:
    """Refuse a request that cannot fit the stored vectors, before anything is loaded.

    Raises:
        SignatureMismatch: another mode, model or setting, with the fix.
    """
    if mode not in (None, stored.mode):
        raise SignatureMismatch(
            f"{directory} holds {stored.mode} vectors, not {mode}",
            fix=f"use --mode {stored.mode}, or index into a new directory",
        )
    found = asked.differences(stored.asked, stored.signature)
    if found:
        raise mismatch(directory, stored, found)


def mismatch(directory: Path, stored: Description, found: list[str]) -> SignatureMismatch:
    """The error for vectors that do not compare with the stored ones."""
    engine = "" if stored.engine == "auto" else f" --engine {stored.engine}"
    return SignatureMismatch(
        f"{directory} holds other vectors ({'; '.join(found)})",
        fix=f"leave the options out, which takes what it was made with (--model {stored.model} "
        f"--mode {stored.mode}{engine}), or index into a new directory",
    )


def _to_json(about: Description) -> dict[str, Any]:
    return {
        "format": FORMAT,
        **{k: v for k, v in vars(about).items() if k not in _NESTED},
        "signature": about.signature.to_dict(),
        "sealed": {name: vars(file) for name, file in about.sealed.items()},
        "snapshot": vars(about.snapshot) if about.snapshot is not None else None,
    }


def _from_json(stored: dict[str, Any]) -> Description:
    values = {k: v for k, v in stored.items() if k != "format"}
    copy = stored.get("snapshot")
    return Description(
        **values
        | {
            "mode": check_mode(stored["mode"]),
            "signature": Signature.from_dict(stored["signature"]),
            "sealed": {name: SealedFile(**file) for name, file in stored["sealed"].items()},
            "snapshot": SealedFile(**copy) if copy is not None else None,
        }
    )


def _digest(stored: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(stored, sort_keys=True).encode(), digest_size=16).hexdigest()
