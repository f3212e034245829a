"""A miniature of MMEB-V2, drawn here, in the layout of the real data sets."""

from ume_eval.demo.build import DEMO_TASKS, build_demo, demo_tasks

__all__ = ["DEMO_TASKS", "build_demo", "demo_tasks"]
