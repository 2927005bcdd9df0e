"""The demo's API: its token expires for a few messages, and a new one is good for all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from examples.demo import stand_ins
from examples.demo.http import Request
from examples.demo.stand_ins import EXPIRED_TOKEN, FIRST_TOKEN, UNKNOWN_NUMBER, Api, Log

pytestmark = pytest.mark.anyio


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Api:
    """An API without trouble that passes."""
    monkeypatch.setattr(stand_ins, "API_TROUBLES", {})
    monkeypatch.setattr(stand_ins, "PACE", 0.0)
    return Api(Log(tmp_path / "api.jsonl"), seed=1)


def message(number: int, token: str = FIRST_TOKEN, to: str = "12025550101") -> Request:
    body = {"biz_opaque_callback_data": f"note.run.{number}", "to": to}
    headers = {"authorization": f"Bearer {token}"}
    return Request("POST", "/v21.0/15550100/messages", headers, json.dumps(body).encode())


async def code(api: Api, request: Request) -> int:
    """The API's code for an error, or the status of what is none."""
    response = await api(request)
    return int(json.loads(response.body)["error"]["code"]) if response.status == 401 else response.status


async def refused(api: Api, token: str) -> set[int]:
    """Which of a few messages are refused for their token."""
    return {number for number in range(25) if await code(api, message(number, token)) == 190}


async def test_a_message_that_met_the_expired_token_always_does(api: Api) -> None:
    """So a worker that is killed and starts again ends up with the same dead letters."""
    first = await refused(api, FIRST_TOKEN)
    assert len(first) == len(EXPIRED_TOKEN)
    assert await refused(api, FIRST_TOKEN) == first


async def test_a_renewed_token_is_good_for_all_and_ends_the_first(api: Api) -> None:
    """A worker that is not restarted with it sends nothing more."""
    response = await api(Request("GET", "/v21.0/oauth/access_token?grant_type=fb_exchange_token", {}, b""))
    token = json.loads(response.body)["access_token"]
    assert await refused(api, token) == set()
    assert len(await refused(api, FIRST_TOKEN)) == 25


async def test_what_can_never_go_out_is_not_among_what_a_token_mends(api: Api) -> None:
    """A message to nobody is refused as such."""
    for number in range(25):
        assert await code(api, message(number, to=f"120255501{UNKNOWN_NUMBER}")) != 190
