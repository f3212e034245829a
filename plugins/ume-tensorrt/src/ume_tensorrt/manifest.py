"""`tensorrt/engines.json`: what built engines say about themselves, and whether they fit here."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ume_core.errors import CheckpointError, EngineUnavailable
from ume_qwen.digests import files_digest
from ume_tensorrt.names import FOLDER, NAME
from ume_tensorrt.profiles import Profiles, parse_profiles

FORMAT = 1


@dataclass(frozen=True)
class Device:
    """A GPU, as engines are bound to it: its name and compute capability, such as `9.0`."""

    name: str
    capability: str


@dataclass(frozen=True)
class EngineManifest:
    """Built engines.

    Attributes:
        graphs: digest of the ONNX graphs they were built from, as in the export's manifest.
        tensorrt: version that built them.
        device: the GPU they were built on.
        version_compatible: newer TensorRT of the same major version may load them.
        profiles: what they were built for, in JSON form (see `ume_tensorrt.profiles`).
        plans: digest of the engine files.
        parity: against the same graphs on ONNX Runtime's CPU.
        seconds: per graph, the time to build it.
    """

    graphs: str
    tensorrt: str
    device: dict[str, str]
    version_compatible: bool
    profiles: dict[str, Any]
    plans: str
    parity: dict[str, Any]
    seconds: dict[str, float]
    format: int = FORMAT

    def write(self, folder: Path) -> None:
        """Write engines.json to `folder`."""
        (folder / NAME).write_text(json.dumps(asdict(self), indent=1), "utf-8")

    def parsed_profiles(self, origin: Path) -> Profiles:
        """The profiles they were built for."""
        return parse_profiles(self.profiles, str(origin))

    def check(
        self,
        directory: Path,
        graphs: str,
        version: str,
        device: Device,
        *,
        folder: Path | None = None,
        unchecked: bool = False,
    ) -> None:
        """Refuse engines that were built from other graphs, by another TensorRT or on another GPU.

        Args:
            graphs: digest of the export's graphs.
            version: of the TensorRT that is installed.
            folder: where the engines are, if not in the directory's own folder.

        Raises:
            CheckpointError: they are not this export's, or did not pass.
            EngineUnavailable: they do not fit here.
        """
        fix = f"run: {rebuild(directory)}"
        if self.graphs != graphs:
            raise CheckpointError(f"the engines in {directory} are of another export", fix=fix)
        if not unchecked and self.parity.get("passed") is not True:
            raise CheckpointError(f"the engines in {directory} did not pass parity", fix=fix)
        if files_digest(plan_files(folder or directory / FOLDER)) != self.plans:
            raise CheckpointError(f"the engines in {directory} were changed", fix=fix)
        built, here = _numbers(self.tensorrt), _numbers(version)
        # Engines of one release load in that release alone, unless built otherwise: then in the
        # same and newer ones of one major version (NVIDIA, "Version Compatibility").
        loads = built[:3] == here[:3] or (
            self.version_compatible and built[0] == here[0] and built <= here
        )
        if not loads:
            raise EngineUnavailable(
                f"the engines in {directory} were built by TensorRT {self.tensorrt}, and {version} "
                "is installed",
                fix=fix,
            )
        if self.device != asdict(device):
            raise EngineUnavailable(
                f"the engines in {directory} were built on {self.device.get('name')} (compute "
                f"capability {self.device.get('capability')}), and this is {device.name} "
                f"({device.capability})",
                fix=fix,
            )


def read_manifest(directory: Path, folder: Path | None = None) -> EngineManifest:
    """The engines' manifest of an exported directory.

    Args:
        folder: where the engines are, if not in the directory's own folder.

    Raises:
        CheckpointError: no engines were built there, or the file is damaged.
    """
    path = (folder or directory / FOLDER) / NAME
    if not path.is_file():
        raise CheckpointError(
            f"{directory} holds no TensorRT engines", fix=f"run: {rebuild(directory)}"
        )
    try:
        found = EngineManifest(**json.loads(path.read_text("utf-8")))
        if not isinstance(found.device, dict) or not isinstance(found.parity, dict):
            raise ValueError("device and parity must be objects")
        _numbers(found.tensorrt)
    except (TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is damaged: {error}", fix=f"run: {rebuild(directory)}"
        ) from error
    if found.format != FORMAT:
        raise CheckpointError(f"{path} has format {found.format}", fix=f"run: {rebuild(directory)}")
    return found


def plan_files(folder: Path) -> list[Path]:
    """The engine files."""
    return sorted(folder.glob("*.plan"))


def rebuild(directory: Path) -> str:
    """The command that builds engines for this machine."""
    return f"ume export {directory} --format tensorrt"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in version.split(".")[:4])
