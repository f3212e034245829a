"""All 78 tasks of MMEB-V2 as data, under each of its three protocols."""

from ume_eval.tasks.protocols import DEFAULT_PROTOCOL, PROTOCOLS, Protocol, choose, tasks_of
from ume_eval.tasks.task import META_TASKS, MODALITIES, Source, Task, instruction_digest

__all__ = [
    "DEFAULT_PROTOCOL",
    "META_TASKS",
    "MODALITIES",
    "PROTOCOLS",
    "Protocol",
    "Source",
    "Task",
    "choose",
    "instruction_digest",
    "tasks_of",
]
