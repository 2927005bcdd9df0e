"""What the worker is told by its environment."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from arq.connections import RedisSettings


class SettingsError(Exception):
    """The environment lacks a setting, or has one that cannot be used."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the worker cannot serve without: each field is the variable of its name in capitals."""

    redis_url: str = field(repr=False)
    whatsapp_api_url: str
    whatsapp_token: str = field(repr=False)
    whatsapp_phone_number_id: str
    download_dir: Path

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Read them all.

        Raises:
            SettingsError: some are missing; it names every one.
        """
        values = {each.name: environ.get(each.name.upper(), "") for each in fields(cls)}
        missing = [name.upper() for name, value in values.items() if value == ""]
        if missing:
            raise SettingsError(
                f"not set in the environment: {', '.join(missing)}; examples/README.md says what they mean"
            )
        directory = Path(values.pop("download_dir"))
        return cls(download_dir=directory, **values)


@dataclass(frozen=True, slots=True)
class Tuning:
    """What the worker can serve without: `lease` is `WORKER_LEASE` in the environment, and so on.

    Attributes:
        lease: seconds after which the job of a crashed worker is run again.
        job_timeout: seconds for one attempt.
        poll_delay: seconds between looks at the queue.
        retry_first, retry_cap: seconds of the first and the longest retry delay.
        queue: ARQ's queue.
        namespace: what jobguard's keys start with.
        download_limit: bytes that a download may have.
        reply_url: of the service that knows what to answer; "" = a fixed acknowledgement.
        event_log: file that gets each event of jobguard as a line of JSON; "" = none.
        alert_url: webhook that is told when jobs fail in a new way, or dead letters pile up; "" = none.
    """

    lease: float = 30.0
    job_timeout: float = 300.0
    poll_delay: float = 0.5
    retry_first: float = 30.0
    retry_cap: float = 600.0
    queue: str = "arq:queue"
    namespace: str = "jobguard"
    download_limit: int = 100 * 1024 * 1024
    reply_url: str = ""
    event_log: str = ""
    alert_url: str = field(default="", repr=False)

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Read what is there.

        Raises:
            SettingsError: a number cannot be read; it names the variable.
        """
        values: dict[str, Any] = {}
        for each in fields(cls):
            name, kind = f"WORKER_{each.name.upper()}", _KINDS[str(each.type)]
            if name in environ:
                try:
                    values[each.name] = kind(environ[name])
                except ValueError as error:
                    raise SettingsError(f"{name} must be a number, not {environ[name]!r}") from error
        return cls(**values)


_KINDS: dict[str, Callable[[str], object]] = {"str": str, "int": int, "float": float}


class RedisFromEnv(RedisSettings):
    """ARQ's connection settings, read when a worker connects: to import it needs no environment."""

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("__"):  # what Python itself asks of any object
            return super().__getattribute__(name)
        return getattr(RedisSettings.from_dsn(Settings.from_env(os.environ).redis_url), name)
