"""The example worker's settings: what ARQ gets, and what is said when something is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from examples.arq_worker import WorkerSettings
from examples.settings import RedisFromEnv, Settings, SettingsError, Tuning

ROOT = Path(__file__).resolve().parents[2]

ENVIRONMENT = {
    "REDIS_URL": "redis://:secret@cache.example:6380/2",
    "WHATSAPP_API_URL": "https://api.example/v21.0",
    "WHATSAPP_TOKEN": "secret",
    "WHATSAPP_PHONE_NUMBER_ID": "4711",
    "DOWNLOAD_DIR": "/downloads",
}


def test_arq_gets_the_limits_that_the_example_promises() -> None:
    """Ten jobs at once, five minutes each, results for an hour, three tries."""
    settings = vars(WorkerSettings)
    assert (settings["max_jobs"], settings["job_timeout"], settings["keep_result"]) == (10, 300, 3600)
    assert (settings["max_tries"], settings["retry_jobs"]) == (3, True)


def test_every_task_is_registered_under_its_name() -> None:
    """Jobs are enqueued by these names."""
    names = {function.name for function in vars(WorkerSettings)["functions"]}
    assert names >= {"download_content", "handle_incoming_whatsapp_message", "send_whatsapp_message"}


def test_settings_come_from_the_environment() -> None:
    """Each field from the variable of its name."""
    settings = Settings.from_env(ENVIRONMENT)
    assert settings.redis_url == ENVIRONMENT["REDIS_URL"]
    assert settings.download_dir == Path("/downloads")


@pytest.mark.parametrize("name", sorted(ENVIRONMENT))
def test_a_missing_setting_is_named(name: str) -> None:
    """So is an empty one, which is how compose files pass what is not set."""
    with pytest.raises(SettingsError, match=name):
        Settings.from_env({key: value for key, value in ENVIRONMENT.items() if key != name})
    with pytest.raises(SettingsError, match=name):
        Settings.from_env(ENVIRONMENT | {name: ""})


def test_all_missing_settings_are_named_at_once() -> None:
    """Nobody likes to be told one at a time."""
    with pytest.raises(SettingsError) as raised:
        Settings.from_env({})
    assert all(name in str(raised.value) for name in ENVIRONMENT)


def test_secrets_do_not_show() -> None:
    """Settings end up in logs and tracebacks."""
    assert "secret" not in repr(Settings.from_env(ENVIRONMENT))


@pytest.mark.parametrize("name", sorted(ENVIRONMENT))
def test_the_stock_command_names_what_is_missing_before_it_connects(name: str) -> None:
    """`arq examples.arq_worker.WorkerSettings` ends with the name, not with a connection error."""
    environment = {key: value for key, value in os.environ.items() if key not in ENVIRONMENT}
    environment |= {key: value for key, value in ENVIRONMENT.items() if key != name}
    done = subprocess.run(
        [sys.executable, "-m", "arq", "examples.arq_worker.WorkerSettings"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0
    assert name in done.stderr.splitlines()[-1]


def test_redis_settings_are_read_when_they_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not when the module is imported: tests and tools import it without any environment."""
    settings = RedisFromEnv()
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    assert (settings.host, settings.port, settings.database) == ("cache.example", 6380, 2)


def test_without_an_environment_the_worker_is_tuned_for_production() -> None:
    """Every optional setting has a default."""
    assert Tuning.from_env({}) == Tuning()


def test_every_tuning_can_be_set() -> None:
    """Under its name in capitals, after WORKER_, with its own type."""
    given = {f"WORKER_{field.name.upper()}": "7" for field in fields(Tuning)}
    tuning = Tuning.from_env(given)
    assert all(str(getattr(tuning, field.name)) in ("7", "7.0") for field in fields(Tuning))


def test_a_number_that_is_none_is_named() -> None:
    """With the value that was there."""
    with pytest.raises(SettingsError, match="WORKER_LEASE must be a number, not 'long'"):
        Tuning.from_env({"WORKER_LEASE": "long"})
