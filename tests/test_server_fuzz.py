"""A short run of `tools.load.fuzz`, and what it takes for a fault."""

from __future__ import annotations

import sys

import pytest

if sys.version_info < (3, 11):
    pytest.skip("ume-server needs Python 3.11", allow_module_level=True)

import httpx

from tools.load import fuzz
from tools.load.requests import judge


def test_no_odd_request_is_a_fault_or_hangs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["fuzz", "--cases", "150", "--minutes", "1"])
    fuzz.main()
    said = capsys.readouterr().out
    assert "200:" in said and "400:" in said


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, {"error": {"message": "x", "type": "t", "param": None, "code": "c"}}),
        (400, {"error": {"message": "at 0x7f31aa", "type": "t", "param": None, "code": "c"}}),
        (400, {"error": {"message": "in /home/me/x", "type": "t", "param": None, "code": "c"}}),
        (400, {"error": {"message": "x"}}),
    ],
)
def test_what_counts_as_a_fault(status: int, body: dict[str, object]) -> None:
    with pytest.raises(AssertionError):
        judge(httpx.Response(status, json=body))
