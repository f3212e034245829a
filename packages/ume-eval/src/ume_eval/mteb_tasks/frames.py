"""Videos given as saved frames, in the form in which mteb's collators read decoders.

mteb reads videos through torchcodec's `VideoDecoder`; MMEB-V2 has no videos, only frames. The
column stores the frames' paths and shows rows an object with the decoder's methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from datasets.features.features import register_feature
from PIL import Image


class FrameDecoder:
    """Frames behind torchcodec's interface, as far as mteb 2.26 uses it."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = list(paths)
        # Eight frames stand for a clip of unknown length; two a second is qwen-vl-utils' default.
        seconds = len(self.paths) / 2
        self.metadata = SimpleNamespace(
            num_frames=len(self.paths),
            end_stream_seconds=seconds,
            duration_seconds=seconds,
            average_fps=2.0,
        )

    def __len__(self) -> int:
        return len(self.paths)

    def get_frames_at(self, indices: Sequence[int]) -> Any:
        """Frames as an object with `data`: uint8 (frames, 3, height, width)."""
        import torch

        frames = [np.asarray(Image.open(self.paths[int(n)]).convert("RGB")).copy() for n in indices]
        return SimpleNamespace(data=torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2))


@dataclass
class FrameList:
    """A `datasets` feature: stored as paths, read as a `FrameDecoder`.

    Attributes:
        sampled: the frames were chosen already; a model that takes all of them sees what it should.
    """

    id: str | None = field(default=None, repr=False)
    sampled: ClassVar[bool] = True
    dtype: ClassVar[str] = "list"
    pa_type: ClassVar[Any] = pa.list_(pa.string())
    _type: str = field(default="UmeFrameList", init=False, repr=False)

    def __call__(self) -> Any:
        """The storage's type."""
        return self.pa_type

    def encode_example(self, value: Any) -> Any:
        """Paths, or nothing where a row has no video."""
        if isinstance(value, FrameDecoder):
            return value.paths
        return None if value is None else [str(path) for path in value]

    def decode_example(self, value: Any, token_per_repo_id: Any = None) -> Any:  # noqa: ARG002
        """A decoder."""
        return None if value is None else FrameDecoder(value)


register_feature(FrameList, "UmeFrameList")
