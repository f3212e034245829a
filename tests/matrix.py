"""What the tests have shown to work: framework x mode x modality x engine, for the status page."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ume_qwen.devices import has_gpu

PAGE = Path(__file__).resolve().parents[1] / "packages" / "ume-r1" / "docs" / "status.md"
BEGIN, END = "<!-- matrix: written by the tests -->", "<!-- end of the matrix -->"
# Why TensorRT cannot run here, or "".
HARDWARE = (
    "TensorRT is not installed" if find_spec("tensorrt") is None
    else "no NVIDIA GPU" if not has_gpu() else ""
)  # fmt: skip
NOT_RUN = "not run"
MODALITIES = ("text", "image", "image+text", "video")


@dataclass(frozen=True)
class Cell:
    """A combination whose vectors equalled the engine's."""

    framework: str
    mode: str
    modality: str
    engine: str


COVERED: set[Cell] = set()


def covered(cell: Cell) -> None:
    """Record a combination; call it after the assertion."""
    COVERED.add(cell)


def table(frameworks: list[str], engines: list[tuple[str, str]]) -> str:
    """Markdown: a row per framework, a column per engine and mode, modalities in the cells."""
    head = "| | " + " | ".join(f"{engine}, {mode}" for engine, mode in engines) + " |"
    lines = [head, "|---" * (len(engines) + 1) + "|"]
    for framework in frameworks:
        cells: list[str] = []
        for engine, mode in engines:
            shown = [m for m in MODALITIES if Cell(framework, mode, m, engine) in COVERED]
            ran = any(c.engine == engine for c in COVERED)
            cells.append(", ".join(shown) or ("-" if ran else NOT_RUN))
        lines.append(f"| {framework} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def in_page() -> str:
    """The table as the status page has it."""
    text = PAGE.read_text("utf-8")
    return text.split(BEGIN)[1].split(END)[0].strip()


def write(made: str) -> None:
    """Put a table into the status page."""
    before, rest = PAGE.read_text("utf-8").split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{made}\n{END}{rest.split(END)[1]}", "utf-8")
