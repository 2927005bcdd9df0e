"""Packed dead letters: what is kept stays readable, and what is not ours is harmless."""

from __future__ import annotations

import base64
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobguard.stores import entries
from jobguard.stores.entries import LARGEST_TEXT, pack, unpack
from jobguard.stores.letters import UNKNOWN_TASK, Entry, LetterState

ENTRY = Entry(
    "5f3c9a0d2b71e846a1c0ffee",
    LetterState.REQUEUED,
    "app.mail.send",
    "httpx.ReadTimeout",
    "9e3779b97f4a7c15",
    "jobguard:k",
    '{"id":"5f3c9a0d2b71e846a1c0ffee","adapter":"arq","task":"app.mail.send","key":"jobguard:k",'
    '"error_type":"httpx.ReadTimeout","fingerprint":"9e3779b97f4a7c15","attempts":[]}',
    3,
    1_764_000_000_000_001,
)
KEPT = base64.b64decode(
    "UTMgMTc2NDAwMDAwMDAwMDAwMSAxMyAxNyAxNiAxMAphcHAubWFpbC5zZW5kaHR0cHguUmVhZFRpbWVvdXQ5ZTM3NzliOTdmNGE3YzE1"
    "am9iZ3VhcmQ6a3ojPShweBuLxwj6gRQ3x9YCAA=="
)
"""The same, in a server since this layout was first written."""
any_text = st.text(st.characters())  # lone surrogates among them


def packed(entry: Entry) -> bytes:
    """As a script puts it together."""
    mark, tail = pack(entry)
    return b"%b%d %d %b" % (mark, entry.revision, entry.arrival, tail)


@given(
    st.builds(
        Entry,
        any_text,
        st.sampled_from(LetterState),
        any_text,
        any_text,
        any_text,
        any_text,
        any_text,
        st.integers(1, 2**53),
        st.integers(0, 2**53),
    )
)
def test_an_entry_comes_back_as_it_was_packed(entry: Entry) -> None:
    """Every part survives, whatever is in it; without its text, all the rest does."""
    assert unpack(entry.id, packed(entry)) == entry
    assert unpack(entry.id, packed(entry), with_text=False) == entry._replace(text="")


def test_an_entry_that_was_packed_long_ago_can_be_read() -> None:
    """The dictionary behind the compression is part of the format: it must never change."""
    assert unpack(ENTRY.id, KEPT) == ENTRY


@pytest.mark.parametrize("size", [0, 1, 4096, 4097, 40_000, 300_000, LARGEST_TEXT, LARGEST_TEXT + 1])
def test_a_text_of_any_size_comes_back(size: int) -> None:
    """Short and long texts, repetitive as they are, take less room than their bytes, up to the largest."""
    text = ("0123456789abcdef" * (size // 16 + 1))[:size]
    entry = ENTRY._replace(text=text)
    assert unpack(entry.id, packed(entry)) == entry
    assert (len(pack(entry)[1]) < size) is (16 < size <= LARGEST_TEXT)


def test_a_large_key_does_not_spoil_the_text() -> None:
    """Values longer than what compression can look back on are kept like any other."""
    entry = ENTRY._replace(key="k" * 70_000 + "end", task="t" * 9000, text=ENTRY.text * 100)
    assert unpack(entry.id, packed(entry)) == entry


def test_a_small_body_does_not_become_a_large_text() -> None:
    """A body that somebody has made to fill a reader's memory is shown as it is, and not unfolded."""
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = squeezer.compress(bytes(8 * LARGEST_TEXT)) + squeezer.flush()
    head = packed(ENTRY).partition(b"jobguard:k")[0]
    entry = unpack(ENTRY.id, head + b"jobguard:kz" + bomb)
    assert entry._replace(text="") == ENTRY._replace(text="")
    assert 0 < len(entry.text) <= entries.SHOWN


@pytest.mark.parametrize("body", [b"", b"z", b"z\xff\xff", b"x" + bytes(9), b"?not ours"])
def test_a_body_that_cannot_be_read_leaves_the_rest(body: bytes) -> None:
    """An entry whose text is broken is still found, shown and removed by what it is indexed by."""
    head = packed(ENTRY).partition(b"jobguard:k")[0]
    assert unpack(ENTRY.id, head + b"jobguard:k" + body)._replace(text="") == ENTRY._replace(text="")


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b'{"id":"a"}',
        b"D1 1 ",
        b"D1 1 1 1 1\nabc",
        b"D1 1 1 1 1 1 1\nabcdef",
        b"D1 1 9 9 9 9\nabc",
        b"D1 1 -1 1 1 1\nabc",
        b"X1 1 1 1 1 1\nabcd",
        b"Dx 1 1 1 1 1\nabcd",
        b"D" + b"9" * 5000 + b" 1 0 0 0 0\n",
        bytes(range(256)),
    ],
)
def test_what_is_nothing_of_ours_is_an_entry_without_a_revision(value: bytes) -> None:
    """An alien value is shown as the text of an entry of which nothing is known."""
    entry = unpack("a", value)
    assert (entry.id, entry.task, entry.revision, entry.arrival) == ("a", UNKNOWN_TASK, 0, 0)
    assert entry.text == value.decode("utf-8", "replace")
    assert unpack("a", value, with_text=False).text == ""
