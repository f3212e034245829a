"""From a task to its data, through the parser that the task names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ume_core.errors import InvalidOption
from ume_eval.data import image, moments, questions, videos, visdoc
from ume_eval.data.annotations import Annotations
from ume_eval.data.model import TaskData
from ume_eval.tasks import Task

Parser = Callable[[Task, Annotations, Path], TaskData]

PARSERS: dict[str, Parser] = {
    "image_cls": image.texts,
    "image_qa": image.questions,
    "image_i2t": image.texts,
    "image_t2i": image.pictures,
    "image_i2i_vg": image.pairs,
    "video_classification": videos.classes,
    "ssv2": videos.ssv2,
    "msrvtt": videos.msrvtt,
    "msvd": videos.msvd,
    "didemo": videos.didemo,
    "youcook2": videos.youcook2,
    "vatex": videos.vatex,
    "videomme": questions.videomme,
    "nextqa": questions.nextqa,
    "egoschema": questions.egoschema,
    "mvbench": questions.mvbench,
    "activitynetqa": questions.activitynetqa,
    "moment_retrieval": moments.moment_retrieval,
    "momentseeker": moments.momentseeker,
    "vidore": visdoc.vidore,
    "visrag": visdoc.visrag,
}


def parse(task: Task, annotations: Annotations) -> TaskData:
    """Read a task's annotations and list its media.

    Raises:
        InvalidOption: annotations or media are missing or malformed.
    """
    data = PARSERS[task.parser](task, annotations, media_root(task, annotations.data))
    data.revision = annotations.revision(task.source)
    return data


def media_root(task: Task, data: Path) -> Path:
    """The first of the task's roots that exists; the first one where none does.

    Pages need no folder, since their annotations hold them.
    """
    roots = [data / r for r in task.roots]
    return next((r for r in roots if r.is_dir()), roots[0])


def require_root(task: Task, data: Path) -> Path:
    """As `media_root`.

    Raises:
        InvalidOption: none of the roots exists.
    """
    root = media_root(task, data)
    if not root.is_dir():
        raise InvalidOption(
            f"{task.name}: none of {', '.join(task.roots)} is in {data}",
            fix="download and unpack the media; the preflight prints the commands",
        )
    return root
