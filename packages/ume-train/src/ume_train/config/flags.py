"""What every flag of the published README's training commands became.

Inert upstream: the flag is read and changes nothing there (UME-R1's code, in the history of
Kikcer/lume @73f138b).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Flag:
    """One flag.

    Attributes:
        stage: whose command has it.
        flag: its name.
        value: what the README gives it.
        key: the key of our configuration, or "".
        ours: the key's value in `published-2b`, as YAML has it, or "".
        note: what differs, or why there is no key.
    """

    stage: Literal["sft", "grpo"]
    flag: str
    value: str
    key: str = ""
    ours: object = ""
    note: str = ""


_TORCHRUN = "accelerate launch or torchrun; see the README"
_S, _G = "sft", "grpo"
FLAGS: tuple[Flag, ...] = (
    Flag(_S, "node_rank", "$RANK", note=_TORCHRUN),
    Flag(_S, "nnodes", "8", note=_TORCHRUN),
    Flag(_S, "nproc_per_node", "8", note=_TORCHRUN),
    Flag(_S, "master_addr", "${MASTER_ADDR}", note=_TORCHRUN),
    Flag(_S, "master_port", "${MASTER_PORT}", note=_TORCHRUN),
    Flag(_S, "deepspeed", "zero3.json", note="scale/zero3.yaml, given to accelerate launch"),
    Flag(_S, "model_name_or_path", "Qwen/Qwen2-VL-2B-Instruct", "model.start",
         "Qwen/Qwen2-VL-2B-Instruct", "the two tokens are added as upstream does"),
    Flag(_S, "dataset_use", "mmeb_v2_group", "data.files", [
        {"path": "UME-sft-train/UME-sft-train.json", "media": "MMEB-train", "weight": 1.0}],
        "paths stand in the configuration, not in code"),
    Flag(_S, "data_flatten", "False", note="True is broken upstream; rows are padded in groups of "
         "like length"),
    Flag(_S, "tune_mm_vision", "False", "model.vision", False),
    Flag(_S, "tune_mm_mlp", "True", "model.merger", True),
    Flag(_S, "tune_mm_llm", "True", "model.language", True),
    Flag(_S, "output_dir", "$prefix/output/$run_name", note="--out"),
    Flag(_S, "max_steps", "5000", "run.steps", 5000),
    Flag(_S, "data_group", "True", "data.order", "file", "the file's order, not shuffled"),
    Flag(_S, "bf16", "", "model.precision", "bfloat16"),
    Flag(_S, "per_device_train_batch_size", "4", "batch.chunk", 4, "on 64 GPUs: batch.pairs 256"),
    Flag(_S, "per_device_eval_batch_size", "8", note="inert upstream: nothing is evaluated"),
    Flag(_S, "gradient_accumulation_steps", "4", "batch.accumulate", 4, "negatives stay 256"),
    Flag(_S, "max_pixels", "2359296", "model.max_pixels", 2_359_296),
    Flag(_S, "min_pixels", "768", "model.min_pixels", 768),
    Flag(_S, "eval_strategy", "no", "evaluate.every", 0, "recommended-2b measures held-out pairs"),
    Flag(_S, "save_strategy", "steps", note="checkpoints are always by steps"),
    Flag(_S, "save_steps", "500", "run.save_every", 500),
    Flag(_S, "save_total_limit", "10", "run.keep", 10),
    Flag(_S, "learning_rate", "5e-5", "optimizer.lr", 5e-5),
    Flag(_S, "weight_decay", "0", "optimizer.weight_decay", 0.0),
    Flag(_S, "warmup_ratio", "0.03", "optimizer.warmup", 0.03),
    Flag(_S, "max_grad_norm", "1", "optimizer.max_grad_norm", 1.0),
    Flag(_S, "lr_scheduler_type", "cosine", "optimizer.schedule", "cosine"),
    Flag(_S, "logging_steps", "1", "run.log_every", 1),
    Flag(_S, "model_max_length", "12288", "data.max_tokens", 12_288,
         "upstream cuts there and can lose <gen_emb>; here such a row is an error, or left out"),
    Flag(_S, "gradient_checkpointing", "True", "model.gradient_checkpointing", True),
    Flag(_S, "dataloader_num_workers", "4", note="one thread renders two batches ahead"),
    Flag(_S, "run_name", "${run_name}", note="--out"),
    Flag(_S, "report_to", "none", note="log.jsonl, log.csv, tensorboard/ and report.html, always"),
    Flag(_G, "node_rank", "${RANK}", note=_TORCHRUN),
    Flag(_G, "nproc_per_node", "8", note=_TORCHRUN),
    Flag(_G, "nnodes", "8", note=_TORCHRUN),
    Flag(_G, "master_addr", "${MASTER_ADDR}", note=_TORCHRUN),
    Flag(_G, "master_port", "${MASTER_PORT}", note=_TORCHRUN),
    Flag(_G, "deepspeed", "zero3.json", note="scale/*.yaml, given to accelerate launch"),
    Flag(_G, "output_dir", "$prefix/output/$RUN_NAME", note="--out"),
    Flag(_G, "model_name_or_path", "$MODEL_NAME", "model.start", "runs/sft-published-2b/model"),
    Flag(_G, "dataset_name", "embed.yaml", "data.files", [
        {"path": "UME-rl-train/UME-rl-train.json", "media": "MMEB-train", "weight": 1.0}]),
    Flag(_G, "image_root", "/path/to/MMEB-train", "data.files", [
        {"path": "UME-rl-train/UME-rl-train.json", "media": "MMEB-train", "weight": 1.0}]),
    Flag(_G, "max_prompt_length", "1024", note="inert upstream: set to None; data.max_tokens here"),
    Flag(_G, "max_completion_length", "2048", "rollouts.new_tokens", 2048,
         "also loss.length, what a row's sum is divided by"),
    Flag(_G, "beta", "0.04", "loss.beta", 0.04),
    Flag(_G, "epsilon_high", "0.28", "loss.epsilon_high", 0.28,
         "inert upstream: one update per rollout, so the ratio is exactly 1"),
    Flag(_G, "learning_rate", "1e-6", "optimizer.lr", 1e-6),
    Flag(_G, "num_generations", "8", "rollouts.generations", 8),
    Flag(_G, "temperature", "1", "rollouts.temperature", 1.0,
         "inert upstream: fixed at 1, with transformers' top_k 50 (rollouts.top_k)"),
    Flag(_G, "per_device_train_batch_size", "2", "batch.chunk", 2,
         "on 64 GPUs 16 pairs whose rollouts are told apart: batch.pairs_per_reward"),
    Flag(_G, "gradient_accumulation_steps", "2", "batch.accumulate", 2),
    Flag(_G, "logging_steps", "1", "run.log_every", 1),
    Flag(_G, "bf16", "", "model.precision", "bfloat16"),
    Flag(_G, "torch_dtype", "bfloat16", note="weights are float32 here, products bfloat16"),
    Flag(_G, "data_seed", "42", "run.seed", 42, "inert upstream: file order"),
    Flag(_G, "report_to", "none", note="as SFT's"),
    Flag(_G, "gradient_checkpointing", "true", "model.gradient_checkpointing", True),
    Flag(_G, "attn_implementation", "flash_attention_2",
         note="torch's scaled_dot_product_attention, which has flash kernels"),
    Flag(_G, "num_train_epochs", "1", "run.epochs", 1.0),
    Flag(_G, "run_name", "$RUN_NAME", note="--out"),
    Flag(_G, "max_pixels", "2359296", "model.max_pixels", None,
         "inert upstream: set on the processor, not on its image part"),
    Flag(_G, "save_steps", "50", "run.save_every", 50),
    Flag(_G, "save_only_model", "true", note="states are saved too, so that a run can go on"),
)  # fmt: skip


def flags_page() -> str:
    """The table as Markdown, `docs/published-flags.md`."""
    lines = [
        "# Every flag of the published training commands",
        "",
        "What each became in `published-2b`. Written by `ume_train.config.flags`.",
    ]
    for stage, title in (("sft", "Supervised fine-tuning"), ("grpo", "Reinforcement learning")):
        lines += ["", f"## {title}", "", "| flag | value | here | note |", "|---|---|---|---|"]
        for f in FLAGS:
            if f.stage == stage:
                ours = f"`{f.key}: {_shown(f.ours)}`" if f.key else ""
                lines.append(
                    f"| `--{f.flag}` | {f'`{f.value}`' if f.value else ''} | {ours} | {f.note} |"
                )
    return "\n".join(lines) + "\n"


def _shown(value: object) -> str:
    if isinstance(value, list):
        return str(value[0]["path"])
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )
