"""The parity table that the cross-member tests fill, shown at the end."""

from __future__ import annotations

import pytest

# (architecture, case, mode) -> largest difference from the published recipe
PARITY: dict[tuple[str, str, str], float] = {}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the parity table."""
    if not PARITY:
        return
    terminalreporter.section("largest difference from the published recipe, float32")
    for (kind, case, mode), difference in sorted(PARITY.items()):
        terminalreporter.write_line(f"{kind:11} {case:16} {mode:5} {difference:.1e}")
