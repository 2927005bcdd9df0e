"""From a job that ended badly to the dead letter that explains it, and to JSON and back."""

from __future__ import annotations

import base64
import json
import math
import os
import socket
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from hashlib import blake2b
from typing import Any

from jobguard.codec import LARGEST, Codec, clip, preview, redactor
from jobguard.errors import CrashLimitExceeded, EncodingTooLarge, NotEncodable, StoreError, Undeliverable
from jobguard.job import AttemptError, History, JobRef
from jobguard.policies import DeadLettering
from jobguard.stores.letters import UNKNOWN_TASK, DeadLetter, Edit, Entry, LetterState, ReplayRecord

TRACEBACK_LIMIT = 16_384
MESSAGE_LIMIT = 2_048
NAME_LIMIT = 500
"""Characters of an error's class, which is the name of an index."""
PAYLOAD_LIMIT = LARGEST
"""Bytes of a job's arguments; larger ones are not kept, and the letter says so."""
LARGEST_NUMBER = 2**63
"""No number of a letter is as large."""
KEPT_ATTEMPTS = 50
"""Failed attempts that a letter describes, those of earlier replays included; older ones are only counted."""


def letter_id(identity: str) -> str:
    """The id of a job's dead letter: the same each time its end is written."""
    return blake2b(
        identity.encode("utf-8", "surrogatepass"), digest_size=12, person=b"jobguard-dlq"
    ).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How a job ended badly.

    Attributes:
        adapter: the queue library's name.
        job: which job.
        task: its name, as its queue knows it.
        key: its deduplication key, if any.
        history: what it went through.
        error: the last error.
        reason: why no run is left, in a word.
        raw: the job as its queue stores it, if there is such a thing.
    """

    adapter: str
    job: JobRef
    task: str
    key: str | None
    history: History
    error: Exception
    reason: str
    raw: bytes | None


@dataclass(frozen=True, slots=True)
class Arguments:
    """A call's arguments, without ctx, and the names of the parameters that the positional ones fill."""

    args: tuple[object, ...]
    kwargs: Mapping[str, object]
    names: tuple[str, ...]


def write_letter(
    end: End,
    policy: DeadLettering,
    codec: Codec,
    call: Arguments | None,
    also: Callable[[str], str] = str,
) -> DeadLetter:
    """Describe the end of a job. Never raises for what the arguments or the error contain.

    Args:
        end: what happened.
        policy: what to keep and what to mask.
        codec: writes the arguments.
        call: the arguments; None = they are not known, and only the queue's own bytes can be kept.
        also: masks what else is to be masked in texts.
    """
    shown = _NOTHING if call is None else call
    redact = redactor(shown.args, shown.kwargs, shown.names, policy.redact)

    def mask(text: str) -> str:
        return also(redact(text))

    payload, payload_format = _payload(policy, codec, call, end.raw)
    error, history = end.error, end.history
    return DeadLetter(
        id=letter_id(end.job.identity),
        adapter=end.adapter,
        queue=end.job.queue,
        task=end.task,
        job_id=end.job.id,
        enqueued_ms=end.job.enqueued_ms,
        key=end.key,
        payload=payload,
        payload_format=payload_format,
        preview=preview(shown.args, shown.kwargs, shown.names, policy.redact),
        error_type=type_name(error),
        error_message=clip(mask(message_of(error)), MESSAGE_LIMIT),
        traceback=clip(mask(_traceback(error)), TRACEBACK_LIMIT),
        causes=tuple(
            clip(mask(f"{type_name(cause)}: {message_of(cause)}"), MESSAGE_LIMIT) for cause in _causes(error)
        ),
        reason=end.reason,
        fingerprint=_fingerprint(error, end),
        attempts=tuple(
            AttemptError(attempt.attempt, attempt.at, attempt.type, mask(attempt.message))
            for attempt in history.errors
        ),
        failures=history.failures,
        interruptions=history.interruptions,
        crashes=history.crashes,
        first_seen=time.time() - history.elapsed,
        failed_at=time.time(),
        worker=worker_name(),
        parameters=tuple(shown.names) if payload_format == "json" else (),
        redact=policy.redact,
    )


_NOTHING = Arguments((), {}, ())


def dead_again(before: DeadLetter, now: DeadLetter) -> DeadLetter:
    """The letter of a job that was run again and has ended badly again: one entry, with all it went through.

    Args:
        before: as it was when the job was run again, and tells of that.
        now: as if the job had been a new one.
    """
    runs = before.attempts[-1].attempt if before.attempts else 0
    later = tuple(replace(each, attempt=runs + each.attempt) for each in now.attempts)
    return replace(
        now,
        id=before.id,
        # What a worker cannot read, or does not know to be masked, must not cost the letter what it has.
        task=before.task if now.task == UNKNOWN_TASK else now.task,
        key=before.key if now.key is None else now.key,
        payload=before.payload,
        payload_format=before.payload_format,
        parameters=before.parameters,
        preview=now.preview if before.preview == "{}" else before.preview,
        attempts=(*before.attempts, *later)[-KEPT_ATTEMPTS:],
        failures=before.failures + now.failures,
        interruptions=before.interruptions + now.interruptions,
        crashes=before.crashes + now.crashes,
        first_seen=before.first_seen,
        requeues=before.requeues,
        redact=tuple(dict.fromkeys((*before.redact, *now.redact))),
        original=before.original,
        edits=before.edits,
        replays=before.replays,
        imported=before.imported,
    )


_OPTIONAL = {field.name: field.default for field in fields(DeadLetter) if field.default is not MISSING}


def to_text(letter: DeadLetter) -> str:
    """A letter as one line of JSON, without what is as it is in most."""
    values = asdict(letter)
    for name, default in _OPTIONAL.items():
        if values[name] == default and name != "version":
            del values[name]
    return json.dumps(values, separators=(",", ":"), ensure_ascii=True)


def from_text(text: str) -> DeadLetter:
    """A letter from its JSON. Safe on any text.

    Raises:
        StoreError: the text is not a letter; it says what is wrong.
    """
    try:
        values = json.loads(text)
        missing = [name for name in _KINDS if name not in _OPTIONAL and name not in values]
        if missing:
            raise KeyError(f"it lacks {', '.join(missing[:5])}{' …' if missing[5:] else ''}")
        known: dict[str, Any] = {name: _checked(name, values[name]) for name in _KINDS if name in values}
        return DeadLetter(**known)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        reason = error.args[0] if isinstance(error, KeyError) else clip(str(error), 200)
        raise StoreError(f"this is not a dead letter: {reason}") from error


_KINDS: dict[str, str] = {field.name: str(field.type) for field in fields(DeadLetter)}
_PLAIN: dict[str, type | tuple[type, ...]] = {
    "str": str,
    "str | None": (str, type(None)),
    "int": int,
    "float": (int, float),
    "bool": bool,
}
_RECORDS = {
    "tuple[AttemptError, ...]": AttemptError,
    "tuple[Edit, ...]": Edit,
    "tuple[ReplayRecord, ...]": ReplayRecord,
}


def _checked(name: str, value: Any) -> object:
    """A field's value, of its type: the text may be from anybody."""
    kind = _KINDS[name]
    if kind == "LetterState":
        return LetterState(value)
    if kind == "tuple[str, ...]":
        return tuple(_of(str, name, each) for each in _of(list, name, value))
    if kind in _RECORDS:
        record = _RECORDS[kind]
        kinds = {field.name: _PLAIN[str(field.type)] for field in fields(record)}
        return tuple(
            record(**{key: _of(kinds[key], f"{name}.{key}", item) for key, item in each.items()})
            for each in _of(list, name, value)
        )
    return _of(_PLAIN[kind], name, value)


def _of(kind: type | tuple[type, ...], name: str, value: Any) -> Any:
    odd = isinstance(value, bool) and kind is not bool
    if odd or not isinstance(value, kind) or (isinstance(value, float) and not math.isfinite(value)):
        raise TypeError(f"{name} is {clip(repr(value), 60)}")
    if isinstance(value, int) and abs(value) >= LARGEST_NUMBER:  # what others count with, and write again
        raise ValueError(f"{name} is {clip(repr(value), 60)}")
    return value


def entry_of(letter: DeadLetter, revision: int = 0) -> Entry:
    """A letter as a store keeps it.

    Args:
        letter: what to keep.
        revision: of the entry that it is to replace, if it is.
    """
    return Entry(
        letter.id,
        letter.state,
        letter.task,
        letter.error_type,
        letter.fingerprint,
        letter.key or "",
        to_text(letter),
        revision,
    )


def letter_in(entry: Entry) -> DeadLetter:
    """The letter that a store has kept; one that stands for it where the entry holds something else."""
    try:
        letter = from_text(entry.text)
    except StoreError as error:
        return replace(unreadable(entry.id, error), state=entry.state)
    return replace(letter, id=entry.id, state=entry.state)


def unreadable(id: str, error: StoreError) -> DeadLetter:
    """Stands for an entry that is no letter, so that all others can be read and it can be removed."""
    return DeadLetter(
        id=id,
        adapter="",
        queue="",
        task=UNKNOWN_TASK,
        job_id="",
        enqueued_ms=0,
        key=None,
        payload=None,
        payload_format="none",
        preview="{}",
        error_type=type_name(error),
        error_message=clip(str(error), MESSAGE_LIMIT),
        traceback="",
        causes=(),
        reason="unreadable",
        fingerprint="",
        attempts=(),
        failures=0,
        interruptions=0,
        crashes=0,
        first_seen=0.0,
        failed_at=0.0,
        worker="",
    )


def type_name(error: BaseException) -> str:
    """An error's class as people write it: builtins without their module."""
    kind = type(error)
    module: object = kind.__module__  # a class may set it to anything
    if module == "builtins" or type(module) is not str:
        return clip(kind.__qualname__, NAME_LIMIT)
    return clip(f"{module}.{kind.__qualname__}", NAME_LIMIT)


def message_of(error: BaseException) -> str:
    """`str(error)`, also where that itself fails."""
    try:
        return str.__str__(str(error))  # `__str__` may answer with a subclass, and methods of its own
    except Exception as broken:
        return f"<message unreadable: {type_name(broken)}>"


def worker_name() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def pack_arguments(args: Iterable[object], kwargs: Mapping[str, object], codec: Codec) -> str:
    """A call's arguments as a payload of the format `json`. Raises `NotEncodable`."""
    return codec.encode({"args": list(args), "kwargs": dict(kwargs)})


def unpack_arguments(payload: str, codec: Codec) -> tuple[list[Any], dict[str, Any]]:
    """The arguments in such a payload. Safe on any text.

    Raises:
        NotEncodable: it cannot be read, or not here.
        ValueError: it holds something else than arguments.
    """
    value: Any = codec.decode(payload)
    try:
        args, kwargs = value["args"], value["kwargs"]
        if [type(args), type(kwargs)] == [list, dict] and all(isinstance(name, str) for name in kwargs):
            return args, kwargs
    except (LookupError, TypeError):
        pass
    raise ValueError("its payload does not hold arguments")


def _payload(
    policy: DeadLettering, codec: Codec, call: Arguments | None, raw: bytes | None
) -> tuple[str | None, str]:
    """The arguments, portable if the codec can, else the queue's own bytes, else nothing."""
    if not policy.payload:
        return None, "none"
    too_large = False
    if call is not None:
        try:
            text = pack_arguments(call.args, call.kwargs, codec)
            if len(text.encode("utf-8", "surrogatepass")) <= PAYLOAD_LIMIT:
                return text, "json"
            too_large = True
        except NotEncodable as error:
            too_large = isinstance(error, EncodingTooLarge)
    if raw is not None:
        if len(raw) <= PAYLOAD_LIMIT:
            return base64.b64encode(raw).decode(), "opaque"
        too_large = True
    return None, "too_large" if too_large else "none"


def _traceback(error: BaseException) -> str:
    """The traceback from the task's own code on: our frames say nothing about the error."""
    frame = error.__traceback__
    while frame is not None and str(frame.tb_frame.f_globals.get("__name__")).startswith("jobguard."):
        frame = frame.tb_next
    try:
        return "".join(traceback.format_exception(type(error), error, frame))
    except Exception as broken:  # it reads attributes of the error, which may be the user's code
        return f"<traceback unreadable: {type_name(broken)}>"


def _causes(error: BaseException) -> list[BaseException]:
    """The chain of causes and contexts below an error, outermost first; cut where it is a ring."""
    chain: list[BaseException] = []
    seen = {id(error)}
    below = _below(error)
    while below is not None and id(below) not in seen and len(chain) < 20:
        seen.add(id(below))
        chain.append(below)
        below = _below(below)
    return chain


def _below(error: BaseException) -> BaseException | None:
    if error.__cause__ is not None:
        return error.__cause__
    return None if error.__suppress_context__ else error.__context__


def _fingerprint(error: BaseException, end: End) -> str:
    """What groups letters of one cause: the error's type and where it was raised, not its text.

    Of what jobguard itself ends a job for, which has no place in the task's code: the reason and the task.
    """
    code, frame = None, error.__traceback__
    while frame is not None:
        code, frame = frame.tb_frame.f_code, frame.tb_next
    where = "" if code is None else f"{code.co_filename.rpartition('/')[2]}:{code.co_name}"
    if isinstance(error, (CrashLimitExceeded, Undeliverable)):
        where = f"{end.reason}:{end.task}"
    cause = f"{type_name(error)}@{where}".encode("utf-8", "surrogatepass")  # names of files may be any bytes
    return blake2b(cause, digest_size=8).hexdigest()
