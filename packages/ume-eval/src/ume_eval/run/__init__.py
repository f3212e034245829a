"""The runner: preflight, stores that survive a killed process, score files."""

from ume_eval.run.encoder import SIDES, Encoder, EncoderOptions, Side
from ume_eval.run.preflight import Check, preflight, require_ready
from ume_eval.run.runner import RunOptions, run_task, run_tasks
from ume_eval.run.scores import read_scores
from ume_eval.run.store import Stored, VectorStore
from ume_eval.run.workers import Workers, device_of, start_workers

__all__ = [
    "SIDES",
    "Check",
    "Encoder",
    "EncoderOptions",
    "RunOptions",
    "Side",
    "Stored",
    "VectorStore",
    "Workers",
    "device_of",
    "preflight",
    "read_scores",
    "require_ready",
    "run_task",
    "run_tasks",
    "start_workers",
]
