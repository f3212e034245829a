"""Evaluation of UME-R1: MMEB-V2 under its three protocols, and what thinking is worth.

Every task has one neutral description (`ume_eval.tasks`), from which both this runner and mteb's
tasks are made.
"""
