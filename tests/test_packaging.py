"""What a user installs: the right files, one version, and an import that is light."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import jobguard

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built by the backend itself, so that no index is asked."""
    directory = tmp_path_factory.mktemp("wheel")
    build = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", build, str(directory)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return zipfile.ZipFile(directory / done.stdout.strip().splitlines()[-1])


def test_the_wheel_holds_every_source_script_and_the_typing_mark(wheel: zipfile.ZipFile) -> None:
    """Each file of the package is in the wheel: modules, Redis scripts and py.typed."""
    package = ROOT / "src" / "jobguard"
    wanted = {
        f"jobguard/{path.relative_to(package)}"
        for path in package.rglob("*")
        if path.suffix in (".py", ".lua", ".typed")
    }
    assert any(name.endswith(".lua") for name in wanted)
    assert wanted <= set(wheel.namelist())


def test_the_wheel_holds_nothing_else(wheel: zipfile.ZipFile) -> None:
    """No test, example or note of development travels along."""
    others = {name for name in wheel.namelist() if not name.startswith("jobguard/")}
    assert {name.partition("/")[0] for name in others} == {f"jobguard-{jobguard.__version__}.dist-info"}


def test_the_wheel_carries_its_license(wheel: zipfile.ZipFile) -> None:
    """The license's text and its SPDX name are in the metadata."""
    (metadata,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    assert "License-Expression: MIT" in wheel.read(metadata).decode()
    assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())


def test_the_version_is_said_in_one_place() -> None:
    """Installed metadata and `__version__` agree, and the changelog knows the version."""
    assert importlib.metadata.version("jobguard") == jobguard.__version__
    assert re.search(
        rf"^## \[{re.escape(jobguard.__version__)}\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M
    )


def test_importing_needs_no_queue_no_server_client_and_no_command_line() -> None:
    """`import jobguard` loads neither arq nor redis nor typer, rich, pydantic or pytest."""
    heavy = ["arq", "httpx", "pydantic", "pytest", "redis", "rich", "trio", "typer", "valkey"]
    code = f"import json, sys, jobguard; print(json.dumps([m for m in {heavy!r} if m in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert json.loads(done.stdout) == []


def test_everything_public_is_named_and_there() -> None:
    """`__all__` is sorted, complete and true; public names are classes and functions of jobguard."""
    names = jobguard.__all__
    assert sorted(names) == sorted(set(names))
    public = {
        name
        for name, value in vars(jobguard).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith("jobguard")
    }
    assert public | {"DeadLetterQueue", "Filter", "Page"} == set(names)  # those are there on demand
    assert all(isinstance(getattr(jobguard, name), object) for name in names)


@pytest.mark.parametrize("pin", (ROOT / "constraints.txt").read_text("utf-8").splitlines())
def test_constraints_are_versions_only(pin: str) -> None:
    """No address and no hash: the pins work with any index."""
    assert re.fullmatch(r"#.*|[a-z0-9-]+==[0-9][^ ]*( ; .+)?", pin)
