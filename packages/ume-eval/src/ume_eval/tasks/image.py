"""The 36 image tasks: 1,000 queries each, ranked among each query's own candidates, hit@1.

Instructions are columns of `ziyjiang/MMEB_Test_Instruct`. Source of names and parsers:
TIGER-AI-Lab/VLM2Vec @6e1e1d4 `experiments/public/eval/image.yaml`; candidates: arXiv 2410.05160,
Table 1.
"""

from __future__ import annotations

from ume_eval.tasks.task import Source, Task

ANNOTATIONS = "ziyjiang/MMEB_Test_Instruct"
# The archive unpacks to MMEB/: PLUME (@18db7e4) reads it there, upstream one level up.
ROOTS = ("image-tasks/MMEB", "image-tasks")

# meta-task: (parser, task, candidates per query)
_TABLE: dict[str, tuple[tuple[str, str, int], ...]] = {
    "I-CLS": (
        ("image_cls", "ImageNet-1K", 1000),
        ("image_cls", "N24News", 24),
        ("image_cls", "HatefulMemes", 2),
        ("image_cls", "VOC2007", 20),
        ("image_cls", "SUN397", 397),
        ("image_cls", "Place365", 365),
        ("image_cls", "ImageNet-A", 1000),
        ("image_cls", "ImageNet-R", 200),
        ("image_cls", "ObjectNet", 313),
        ("image_cls", "Country211", 211),
    ),
    "I-QA": tuple(
        ("image_qa", name, 1000)
        for name in (
            "OK-VQA", "A-OKVQA", "DocVQA", "InfographicsVQA", "ChartQA", "Visual7W", "ScienceQA",
            "VizWiz", "GQA", "TextVQA",
        )
    ),
    "I-RET": (
        ("image_t2i", "VisDial", 1000),
        ("image_i2i_vg", "CIRR", 1000),
        ("image_t2i", "VisualNews_t2i", 1000),
        ("image_i2t", "VisualNews_i2t", 1000),
        ("image_t2i", "MSCOCO_t2i", 1000),
        ("image_i2t", "MSCOCO_i2t", 1000),
        ("image_i2i_vg", "NIGHTS", 1000),
        ("image_t2i", "WebQA", 1000),
        ("image_i2i_vg", "FashionIQ", 1000),
        ("image_t2i", "Wiki-SS-NQ", 1000),
        ("image_i2i_vg", "OVEN", 1000),
        ("image_t2i", "EDIS", 1000),
    ),
    "I-VG": tuple(
        ("image_i2i_vg", name, 1000)
        for name in ("MSCOCO", "RefCOCO", "RefCOCO-Matching", "Visual7W-Pointing")
    ),
}  # fmt: skip

IMAGE_TASKS: tuple[Task, ...] = tuple(
    Task(
        name=name,
        modality="image",
        meta_task=meta_task,
        parser=parser,
        ranking="local",
        source=Source(ANNOTATIONS, name),
        queries=1000,
        candidates=candidates,
        roots=ROOTS,
    )
    for meta_task, rows in _TABLE.items()
    for parser, name, candidates in rows
)
