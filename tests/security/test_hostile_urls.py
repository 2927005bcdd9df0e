"""URLs that somebody else wrote: a client, or an error that is ours and shows no password."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jobguard.cli.app import run
from jobguard.codec import printable
from jobguard.errors import InvalidValue
from jobguard.stores import RedisStore

SECRET = "s3cr3t-W0rd"
SCHEMES = [
    "redis://", "rediss://", "unix://", "redis+sentinel://", "rediss+sentinel://", "redis+cluster://",
    "rediss+cluster://", "http://", "REDIS://", "", "://", "redis:",
]  # fmt: skip
PIECES = [
    "user", ":", "@", "/", "//", "?", "&", "=", ",", "[", "]", "[::1]", "%", "%2F", "%zz", "#", "localhost",
    "host", "6379", "65536", "0", "mymaster", "db=", "ssl_cert_reqs=", "socket_timeout=", "password=", "x",
    "\x00", "\n", "\x1b[31m", "\u202e", "\ud800", "²", "٣", "9" * 5_000, "a" * 5_000, "..", " ",
]  # fmt: skip

rests = st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=10).map("".join)
urls = st.builds(lambda scheme, rest: scheme + rest, st.sampled_from(SCHEMES), rests)


def refusal(url: str) -> InvalidValue | None:
    """Why a URL is refused, if it is."""
    try:
        RedisStore.from_url(url)
    except InvalidValue as refused:
        return refused
    return None


@given(urls)
@example("redis://host:" + "9" * 5_000)
@example("redis+sentinel://host/mymaster/²")
@example("redis://host/" + "9" * 5_000)
@example("redis+cluster://host:٣")
def test_any_url_leads_to_a_client_or_is_refused(url: str) -> None:
    """With our error: one line that can be printed, with the cure, and no longer than it has to be."""
    refused = refusal(url)
    if refused is not None:
        assert "redis://host:6379/0" in str(refused)
        assert printable(str(refused)) == str(refused)


places = st.sampled_from(
    [
        "{scheme}user:{secret}@{rest}",
        "{scheme}:{secret}@{rest}",
        "{scheme}user:{secret}/x@y@{rest}",
        "{scheme}host/0?password={secret}&x={rest}",
        "{scheme}user:{secret}@host:port?{rest}",
    ]
)


@given(places, st.sampled_from(SCHEMES), rests)
def test_no_error_about_a_url_shows_its_password(place: str, scheme: str, rest: str) -> None:
    """Wherever it stands in one, whatever stands around it."""
    refused = refusal(place.format(scheme=scheme, secret=SECRET, rest=rest))
    if refused is not None:
        assert SECRET not in str(refused)
        assert refused.__cause__ is None
        assert refused.__suppress_context__ or refused.__context__ is None


@pytest.mark.parametrize(
    "url",
    [
        f"redis://user:{SECRET}@host:port",
        f"redis://user:{SECRET}@localhost:1/0?ssl_cert_reqs=odd",
        f"rediss://user:{SECRET}@localhost:1/0?ssl_min_version=odd",
        f"redis://user:{SECRET}@localhost:1/0?nothing=1",
        f"redis://user:{SECRET}@localhost:1/0",
        f"redis+sentinel://user:{SECRET}@localhost:1/mymaster/0",
        f"redis+cluster://user:{SECRET}@localhost:1",
        f"unix://user:{SECRET}@/nonexistent",
        f"http://user:{SECRET}@host\x1b]0;x\x07",
    ],
)
def test_the_command_shows_no_password(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither of a URL that cannot be used nor of one behind which nobody answers."""
    assert run(["dlq", "count", "--url", url]) in (1, 2)
    out, err = capsys.readouterr()
    assert out == ""
    assert SECRET not in err
    assert "\x1b" not in err
    assert err.count("jobguard:") == 1
