"""Dead letters as `lua/_letter.lua` writes them, and the part of them that calls send."""

from __future__ import annotations

import zlib

from jobguard.stores.letters import UNKNOWN_TASK, Entry, LetterState
from jobguard.stores.records import raw, text

LARGEST_TEXT = 8 * 2**20
"""Bytes that a body can come to: a small one must not fill a reader's memory."""
SHOWN = 200
"""Bytes shown of what cannot be read."""

_MARKS = {LetterState.DEAD: b"D", LetterState.REQUEUED: b"Q", LetterState.RESOLVED: b"R"}
_STATES = {mark[0]: state for state, mark in _MARKS.items()}
_PLAIN, _DEFLATED = b"p", b"z"
_WINDOW = 15
"""Bits of the window; its negative stands for data without a header, whose checksum has no use here."""
_SMALL, _SMALL_WINDOW = 4096, 13
"""Bytes of a text that a smaller window is enough for, dictionary included: to make it ready takes a fifth of
the time."""

_COMMON = (
    b"The above exception was the direct cause of the following exception:\\n\\n"
    b"During handling of the above exception, another exception occurred:\\n\\n"
    b"asyncio.exceptions.CancelledErrorTimeoutErrorConnectionRefusedErrorConnectionResetError"
    b"json.decoder.JSONDecodeErrorRuntimeErrorAttributeErrorOSErrorKeyErrorTypeErrorValueError"
    b"httpx.ReadTimeouthttpx.ConnectErrorhttpx.HTTPStatusErrorredis.exceptions.ConnectionError"
    b"/usr/local/lib/python3.11/site-packages/usr/lib/python3.12/asyncio/tasks.py/app/src/home/worker/"
    b'return await self.raise \\n    ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^\\n  File \\"/app/tasks.py\\", line '
    b'Traceback (most recent call last):\\n  File \\"'
    b'https://api.example.com/http://localhost:{\\"__type__\\": {\\"$ref\\": truefalsenull'
    b'"path":"before":"after":"at":"by":"number":"too_large","opaque","none","requeued","resolved"'
    b'"gave_up","not_retryable","deadline","crashes","snoozes","unknown_task","undecodable","expired","moved"'
)
_FIELDS = (
    '","version":1,"state":"resolved","resolution":"succeeded","parameters":["to"],"redact":["password"],'
    '"original":"{\\"args\\":[],"edits":[{"path":"","before":"","after":"","at":17,"by":""}],'
    '"replays":[{"number":1,"job_id":"","at":17,"by":"",'
    '"imported":true}"causes":["httpx.ConnectError: All connection attempts failed","reason":"exhausted",'
    '"payload_format":"opaque","traceback":"Traceback (most recent call last):\\n  File \\"","key":null,'
    '"payload":"{\\"args\\":[],\\"kwargs\\":{\\"}}","payload_format":"json","preview":"{\\"args\\":[],'
    '\\"kwargs\\":{\\"","error_type":"","error_message":"","traceback":"","causes":[],'
    '"reason":"exhausted","fingerprint":"","attempts":[{"attempt":1,"at":17,"type":"","message":""},'
    '{"attempt":2,"at":17"}],"failures":3,"interruptions":0,"crashes":0,"first_seen":17,"failed_at":17,'
    '"worker":":1","requeues":1,"version":1,"state":"requeued","parameters":["","redact":["'
)
_ENTRY = (
    '{"id":"%s","adapter":"arq","queue":"arq:queue","task":"%s","job_id":"","enqueued_ms":17","key":"%s",'
    '"payload":"{\\"args\\":"error_type":"%s","error_message":"fingerprint":"%s","attempts":[{"attempt":'
)


def pack(entry: Entry) -> tuple[bytes, bytes]:
    """The mark of an entry's state and its tail, as scripts take them."""
    heads = [raw(each) for each in (entry.task, entry.error, entry.fingerprint, entry.key)]
    sizes = b"%d %d %d %d\n" % tuple(map(len, heads))
    return _MARKS[entry.state], b"".join((sizes, *heads, _body(entry)))


def unpack(id: str, packed: bytes, indexed: int | None = None, *, with_text: bool = True) -> Entry:
    """An entry out of the store; the arrival that an index has for it goes before what it says itself.

    What is nothing of ours has no revision, and itself for a text.
    """
    try:
        mark, revision, arrival, at = _opening(packed)
        sizes, _, rest = packed[at:].partition(b"\n")
        heads: list[str] = []
        start = 0
        for size in map(int, sizes.split(b" ")):
            if not 0 <= size <= len(rest) - start:
                raise ValueError(size)
            heads.append(text(rest[start : start + size]))
            start += size
        task, error, fingerprint, key = heads
        state = _STATES[mark]
    except (ValueError, KeyError):
        shown = text(packed) if with_text else ""
        return Entry(id, LetterState.DEAD, UNKNOWN_TASK, "", "", text=shown, arrival=indexed or 0)
    entry = Entry(
        id, state, task, error, fingerprint, key, "", revision, arrival if indexed is None else indexed
    )
    return entry._replace(text=_text(entry, rest[start:])) if with_text else entry


def _opening(packed: bytes) -> tuple[int, int, int, int]:
    """State, revision, arrival, and where the tail begins."""
    first = packed.index(b" ")
    second = packed.index(b" ", first + 1)
    return packed[0], int(packed[1:first]), int(packed[first + 1 : second]), second + 1


def _body(entry: Entry) -> bytes:
    plain = raw(entry.text)
    if len(plain) <= LARGEST_TEXT:
        window = _SMALL_WINDOW if len(plain) <= _SMALL else _WINDOW
        squeezer = zlib.compressobj(6, zlib.DEFLATED, -window, zdict=_dictionary(entry))
        deflated = squeezer.compress(plain) + squeezer.flush()
        if len(deflated) < len(plain):
            return _DEFLATED + deflated
    return _PLAIN + plain


def _text(entry: Entry, body: bytes) -> str:
    """An entry's text; one that cannot be read shows what is there in its place."""
    if body[:1] == _PLAIN:
        return text(body[1:])
    try:
        inflater = zlib.decompressobj(-_WINDOW, zdict=_dictionary(entry))
        plain = inflater.decompress(body[1:], LARGEST_TEXT + 1)
        if body[:1] == _DEFLATED and inflater.eof and len(plain) <= LARGEST_TEXT:
            return text(plain)
    except zlib.error:
        pass
    return text(body[:SHOWN])


def _dictionary(entry: Entry) -> bytes:
    """What a letter is likely to contain; the likeliest last, as zlib would have it. Never to be changed:
    what was written with it can be read with it only."""
    own = _ENTRY % (entry.id, entry.task, entry.key, entry.error, entry.fingerprint)
    return _COMMON + raw(_FIELDS + own)
