"""A short run of `tools.load.fuzz`, and what it takes for a fault."""

from __future__ import annotations

import sys

import pytest

if sys.version_info < (3, 11):
    pytest.skip("ume-server needs Python 3.11", allow_module_level=True)

import httpx

import ume_core
from tools.load.fuzz import fuzz, still_held
from tools.load.requests import judge
from ume_server.settings import SERVER_LIMITS, SERVER_POLICY, Settings
from ume_server.testing import MODEL, running


def test_no_odd_request_is_a_fault_or_hangs() -> None:
    model = ume_core.load(
        MODEL, engine="torch", device="cpu", dtype="float32", policy=SERVER_POLICY,
        limits=SERVER_LIMITS,
    )  # fmt: skip
    with running(model, Settings()) as server:
        sent = fuzz(server.url, 200, 1.0)
        assert still_held(server.url) == {}
    assert set(sent.statuses) == {"bodies", "OpenAPI"}
    for counter in sent.statuses.values():
        assert counter[200] and counter[400]


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
