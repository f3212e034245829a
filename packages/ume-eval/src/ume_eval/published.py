"""Published rows, to stand beside a run of the same protocol (v2.0) and of all 78 tasks only.

Percent. Source: UME-R1, arXiv 2511.00405 (2B, 7B), as quoted by arXiv 2602.13823, Table 1. That the
rows are v2.0 is inferred: MomentSeeker has 1,800 rows there, and OOD needs the pages from before
the fix.
"""

from __future__ import annotations

from ume_eval.tasks import Protocol

PROTOCOL: Protocol = "v2.0"
GROUPS = (
    "I-CLS", "I-QA", "I-RET", "I-VG", "image",
    "V-CLS", "V-QA", "V-RET", "V-MR", "video",
    "VDRv1", "VDRv2", "VisRAG", "OOD", "visdoc", "All",
)  # fmt: skip
_ROWS = {
    "UME-R1-2B, gen, published": (
        64.8, 62.8, 67.6, 77.2, 66.6, 44.3, 51.2, 32.9, 39.7, 42.2, 72.4, 46.2, 79.2, 37.2, 63.9,
        60.1,
    ),
    "UME-R1-7B, gen, published": (
        67.1, 69.2, 71.9, 84.9, 71.3, 48.6, 60.7, 38.2, 39.3, 47.5, 75.7, 50.5, 83.7, 37.6, 67.1,
        64.5,
    ),
}  # fmt: skip
ROWS: dict[str, dict[str, float]] = {
    name: dict(zip(GROUPS, values, strict=True)) for name, values in _ROWS.items()
}
# Linear NDCG@5 of UME-R1-2B, gen: its author's re-run (XMUDeepLIT/UME-R1 issue 10).
VISDOC_2B: dict[str, float] = {
    "ViDoRe_arxivqa": 73.86,
    "ViDoRe_docvqa": 38.06,
    "ViDoRe_infovqa": 77.57,
    "ViDoRe_tabfquad": 85.86,
    "ViDoRe_tatdqa": 39.92,
    "ViDoRe_shiftproject": 67.35,
    "ViDoRe_syntheticDocQA_artificial_intelligence": 83.21,
    "ViDoRe_syntheticDocQA_energy": 82.22,
    "ViDoRe_syntheticDocQA_government_reports": 81.22,
    "ViDoRe_syntheticDocQA_healthcare_industry": 91.66,
}
# hit@1 of UME-R1-2B, gen: PLUME @18db7e4 `VLM2Vec/experiments/public/all_scores/
# UME-R1-Qwen2VL-2B.json`, of which only the video block is UME-R1's. 8 frames, 1,800 rows of
# MomentSeeker. (The paper prints 51.2 for V-QA, these make 50.9.)
VIDEO_2B: dict[str, float] = {
    "K700": 35.8, "SmthSmthV2": 44.1, "HMDB51": 54.4, "UCF101": 67.2, "Breakfast": 20.1,
    "MVBench": 49.9, "Video-MME": 41.7, "NExTQA": 59.9, "EgoSchema": 45.4, "ActivityNetQA": 57.8,
    "DiDeMo": 32.4, "MSR-VTT": 34.3, "MSVD": 55.4, "VATEX": 29.9, "YouCook2": 12.7,
    "QVHighlight": 57.5, "Charades-STA": 20.4, "MomentSeeker": 41.2,
}  # fmt: skip
TASKS_2B = {**VIDEO_2B, **VISDOC_2B}
