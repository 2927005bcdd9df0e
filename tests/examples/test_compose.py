"""The compose file and the image, without an engine: what they name exists, what they set is right."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from examples.settings import Settings

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def services() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load((EXAMPLES / "compose.yaml").read_text())
    return dict(parsed["services"])


@pytest.fixture
def instructions() -> list[tuple[str, str]]:
    lines = (EXAMPLES / "Dockerfile").read_text().splitlines()
    return [(line.split()[0], line.partition(" ")[2]) for line in lines if re.match("[A-Z]+ ", line)]


def test_redis_keeps_what_the_guarantees_need(services: dict[str, Any]) -> None:
    """An append-only file, flushed, and no eviction."""
    command = services["redis"]["command"]
    settings = dict(zip(command[1::2], command[2::2], strict=True))
    assert settings["--appendonly"] == "yes"
    assert settings["--appendfsync"] in ("everysec", "always")
    assert settings["--maxmemory-policy"] == "noeviction"
    assert any(volume.endswith(":/data") for volume in services["redis"]["volumes"])


def test_the_worker_gets_every_setting_it_needs(services: dict[str, Any]) -> None:
    """As many as it would complain about."""
    assert services["worker"]["environment"].keys() == {field.name.upper() for field in fields(Settings)}


def test_the_worker_starts_after_redis_answers(services: dict[str, Any]) -> None:
    """ARQ gives up after a few tries."""
    assert services["worker"]["depends_on"] == {"redis": {"condition": "service_healthy"}}
    assert "healthcheck" in services["redis"]


def test_the_image_is_built_from_what_is_there(
    services: dict[str, Any], instructions: list[tuple[str, str]]
) -> None:
    """Every path of the build, seen from its context, and none of them hidden from it."""
    build = services["worker"]["build"]
    context = (EXAMPLES / build["context"]).resolve()
    assert (context / build["dockerfile"]).is_file()
    shown = (EXAMPLES / "Dockerfile.dockerignore").read_text().split()
    copied = [name for word, rest in instructions if word == "COPY" for name in rest.split()[:-1]]
    assert "examples" in copied
    for name in copied:
        assert (context / name).exists()
        assert f"!{name.removeprefix('./')}" in shown


def test_the_image_runs_the_worker_itself(instructions: list[tuple[str, str]]) -> None:
    """The stock command, without a shell that would swallow signals, and not as root."""
    said = dict(instructions)
    assert said["CMD"] == '["arq", "examples.arq_worker.WorkerSettings"]'
    assert said["USER"] == "worker"
