"""The 18 video tasks: hit@1 on 8 frames of at most 64 saved ones.

Source: TIGER-AI-Lab/VLM2Vec @6e1e1d4 `experiments/public/eval/video.yaml`, the parsers in
`src/data/eval_dataset/`, `src/constant/dataset_hf_path.py`. Second roots: PLUME @18db7e4
`configs/eval/video.yaml` and Qwen3-VL-Embedding @8ce3aab `scripts/evaluation/mmeb_v2/video.yaml`,
which read the archives where they unpack.
"""

from __future__ import annotations

from ume_eval.tasks.task import Ranking, Source, Task

FRAMES = "video-tasks/frames"
CLIP = "Understand the content of the provided video."
# Its last space and the one that joins it to the question are both in upstream's prompts.
QA = (
    "Given a video and a question, select the most accurate answer from the provided candidates. "
    "Return only the exact text of your chosen answer. Question: "
)
# MVBench's configurations, in upstream's order.
MVBENCH_SUBSETS = (
    "episodic_reasoning", "action_sequence", "action_prediction", "action_antonym",
    "fine_grained_action", "unexpected_action", "object_existence", "object_interaction",
    "object_shuffle", "moving_direction", "action_localization", "scene_transition", "action_count",
    "moving_count", "moving_attribute", "state_change", "fine_grained_pose", "character_order",
    "egocentric_navigation", "counterfactual_inference",
)  # fmt: skip


def _task(
    name: str,
    meta_task: str,
    parser: str,
    ranking: Ranking,
    source: Source,
    queries: int,
    candidates: int | None,
    instruction: str | None,
    *folders: str,
    target: str = "",
    first_rows: int | None = None,
) -> Task:
    return Task(
        name, "video", meta_task, parser, ranking, source, queries, candidates, instruction,
        target, tuple(f"{FRAMES}/{f}" for f in folders), frames=8, first_rows=first_rows,
    )  # fmt: skip


def _classes(name: str, repo: str, queries: int, classes: int, instruction: str) -> Task:
    return _task(
        name, "V-CLS", "video_classification", "global", Source(repo), queries, classes,
        instruction, f"video_cls/{name}",
    )  # fmt: skip


def _retrieval(name: str, parser: str, source: Source, count: int, instruction: str) -> Task:
    return _task(
        name, "V-RET", parser, "global", source, count, None, instruction,
        f"video_ret/{name}/frames", f"video_ret/data/ziyan/video_retrieval/{name}/frames",
        f"video_ret/{name}", target=CLIP,
    )  # fmt: skip


def _questions(
    name: str, parser: str, source: Source, queries: int, options: int | None, *more: str
) -> Task:
    return _task(
        name, "V-QA", parser, "local", source, queries, options, QA, f"video_qa/{name}", *more
    )


_MOMENT = "Find the clip that corresponds to the described scene in the given video:"

VIDEO_TASKS: tuple[Task, ...] = (
    _classes(
        "K700", "VLM2Vec/Kinetics-700", 1000, 700, "Recognize the category of the video content."
    ),
    _task(
        "SmthSmthV2", "V-CLS", "ssv2", "local", Source("VLM2Vec/SmthSmthV2"), 1000, 174,
        "What actions or object interactions are being performed by the person in the video?",
        "video_cls/SSv2", first_rows=1000,
    ),
    _classes(
        "HMDB51", "VLM2Vec/HMDB51", 1000, 51,
        "What actions or objects interactions are the person in the video doing?",
    ),
    _classes(
        "UCF101", "VLM2Vec/UCF101", 1000, 101,
        "What activities or sports are being performed by the person in the video?",
    ),
    _classes(
        "Breakfast", "VLM2Vec/Breakfast", 433, 10,
        "Recognize the breakfast type that the person is cooking in the video. ",
    ),
    _questions("MVBench", "mvbench", Source("VLM2Vec/MVBench", split="train"), 4000, None),
    _questions("Video-MME", "videomme", Source("VLM2Vec/Video-MME"), 2700, 4),
    _questions("NExTQA", "nextqa", Source("VLM2Vec/NExTQA", "MC"), 8564, 5),
    _questions(
        "EgoSchema", "egoschema", Source("VLM2Vec/EgoSchema", "Subset"), 500, 5,
        "video_qa/egoschema",
    ),
    _questions("ActivityNetQA", "activitynetqa", Source("VLM2Vec/ActivityNetQA"), 1000, 2),
    _retrieval(
        "DiDeMo", "didemo", Source("VLM2Vec/DiDeMo"), 1004,
        "Find a video that includes the following described scenes:",
    ),
    _retrieval(
        "MSR-VTT", "msrvtt", Source("VLM2Vec/MSR-VTT", "test_1k"), 1000,
        "Find a video that contains the following visual content:",
    ),
    _retrieval(
        "MSVD", "msvd", Source("VLM2Vec/MSVD"), 670,
        "Find the video snippet that corresponds to the given summary:",
    ),
    _retrieval(
        "VATEX", "vatex", Source("VLM2Vec/VATEX"), 4478,
        "Select a video that fits the description provided:",
    ),
    _retrieval(
        "YouCook2", "youcook2", Source("lmms-lab/YouCook2", split="val"), 3179,
        "Find a video that demonstrates the following action while making a recipe:",
    ),
    _task(
        "QVHighlight", "V-MR", "moment_retrieval", "local", Source("VLM2Vec/QVHighlight"), 1083,
        10, _MOMENT, "video_mret/QVHighlight", target=CLIP,
    ),
    _task(
        "Charades-STA", "V-MR", "moment_retrieval", "local", Source("VLM2Vec/Charades-STA"), 727,
        10, _MOMENT, "video_mret/Charades-STA", "video_mret/Charades_STA", target=CLIP,
    ),
    # Its three instructions depend on what the query holds; this is the one for text.
    _task(
        "MomentSeeker", "V-MR", "momentseeker", "local", Source("VLM2Vec/MomentSeeker"), 1602,
        None, "Find the clip that corresponds to the given text:", "video_mret/MomentSeeker",
        target="Understand the content of the provided video clip.",
    ),
)  # fmt: skip
