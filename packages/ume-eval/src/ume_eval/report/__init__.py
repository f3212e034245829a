"""Reports of a run: JSON, self-contained HTML, the leaderboard's file."""

from ume_eval.report.leaderboard import leaderboard
from ume_eval.report.summary import summarise
from ume_eval.report.write import write_comparison, write_report

__all__ = ["leaderboard", "summarise", "write_comparison", "write_report"]
