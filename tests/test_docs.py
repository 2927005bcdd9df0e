"""The documentation is true: its Python runs, its output is what it prints, its commands exist."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from jobguard.testing import EmbeddedValkey

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SERVER = "redis://localhost:6379/0"
"""What stands for a server in the pages; blocks below `<!-- docs: server -->` meet an embedded one."""

FOREIGN = [f"-Wignore::DeprecationWarning:{module}" for module in ("arq.connections", "arq.worker")]
"""What ARQ calls and newer releases of redis-py deprecate."""

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<body>.*?)^(?P=indent)``` *$", re.MULTILINE | re.DOTALL
)
_MARK = re.compile(r"<!-- docs: (?P<name>\w+)(?: (?P<file>[\w.]+))? -->\s*\Z")

# Runs blocks as they would run in a file of their own, one after the other in one module. `await`
# at the top of a block works as in `python -m asyncio`; all blocks of a page share the event loop.
DRIVER = """
import ast, asyncio, contextlib, inspect, io, json, sys, types

module = types.ModuleType("page")
sys.modules["page"] = module
outputs = []
with asyncio.Runner() as runner:
    for name, source in json.load(sys.stdin):
        code = compile(source, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        with contextlib.redirect_stdout(io.StringIO()) as output:
            result = eval(code, module.__dict__)
            if inspect.iscoroutine(result):
                runner.run(result)
        outputs.append(output.getvalue())
json.dump(outputs, sys.stdout)
"""


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, text, line, and the mark above it (`server`, `fragment`, `file` or none).

    A `file` is not run by itself: it lies, under its name, where the page's shell session runs.
    """

    language: str
    text: str
    line: int
    mark: str
    file: str


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for match in _FENCE.finditer(text):
        above = _MARK.search(text, 0, match.start())
        yield Block(
            match["language"],
            textwrap.dedent(match["body"]),
            text.count("\n", 0, match.start()) + 2,
            "" if above is None else above["name"],
            "" if above is None else above["file"] or "",
        )


def run(page: Path, sources: list[tuple[str, str]]) -> list[str]:
    """What each block printed; the test fails with the block's own traceback if one raises."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *FOREIGN, "-c", DRIVER],
        input=json.dumps(sources),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{page.relative_to(ROOT)} failed:\n{done.stderr}"
    outputs: list[str] = json.loads(done.stdout)
    return outputs


def runs(block: Block) -> bool:
    """Whether it is Python that a page runs where it stands."""
    return block.language == "python" and block.mark not in ("fragment", "file")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize(
    "page", [page for page in PAGES if "```python" in page.read_text("utf-8")], ids=name_of
)
def test_python_blocks_run_and_print_what_the_page_says(page: Path) -> None:
    """Every Python block runs, in order; a `text` block right after one is what it printed."""
    found = list(blocks(page))
    running = [block for block in found if runs(block)]
    for block in found:
        if block.mark in ("fragment", "file") and block.language == "python":
            compile(block.text, f"{name_of(page)}:{block.line}", "exec", flags=0x2000, dont_inherit=True)

    def printed(url: str) -> list[str]:
        # Blank lines in front make the line numbers of a traceback those of the page.
        return run(
            page,
            [(name_of(page), "\n" * (block.line - 1) + block.text.replace(SERVER, url)) for block in running],
        )

    if any(block.mark == "server" for block in running):
        with EmbeddedValkey() as server:
            outputs = printed(server.url)
    else:
        outputs = printed(SERVER)
    said = {id(block): output for block, output in zip(running, outputs, strict=True)}
    for block, following in itertools.pairwise(found):
        if id(block) in said and following.language == "text":
            assert said[id(block)] == following.text, (
                f"{name_of(page)}:{following.line} is not what the block prints"
            )


VARIES = (
    (re.compile(r"\b[0-9a-f]{24}\b"), "<id>"),
    (re.compile(r"\b[0-9a-f]{32}\b"), "<key>"),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d([+-]\d\d:\d\d)?"), "<time>"),
    (re.compile(r"\b\d{16}\b"), "<cursor>"),
)
"""What is another one in each session."""


@pytest.mark.parametrize(
    "page", [page for page in PAGES if "```console" in page.read_text("utf-8")], ids=name_of
)
def test_sessions_in_a_shell_print_what_the_page_says(page: Path, tmp_path: Path) -> None:
    """Every `console` block, in order, on a server where the page's Python has run: the same lines appear."""
    found = list(blocks(page))
    with EmbeddedValkey() as server:
        run(
            page,
            [(name_of(page), block.text.replace(SERVER, server.url)) for block in found if runs(block)],
        )
        for block in found:
            if block.mark == "file":
                (tmp_path / block.file).write_text(block.text.replace(SERVER, server.url), "utf-8")
        script = ["exec 2>&1"]
        session = "".join(block.text for block in found if block.language == "console").splitlines()
        for line in session:
            if line.startswith("$ "):
                script += [f"echo {shlex.quote(line)}", line.removeprefix("$ ")]
        done = subprocess.run(
            ["bash", "-c", "\n".join(script)],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            cwd=tmp_path,
            env=os.environ
            | {
                "JOBGUARD_URL": server.url,
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                "TZ": "UTC",
            },
            timeout=120,
            check=False,
        )
    assert _without_what_varies(done.stdout) == _without_what_varies("\n".join(session))


def _without_what_varies(text: str) -> list[str]:
    for pattern, name in VARIES:
        text = pattern.sub(name, text)
    return [line.rstrip() for line in text.strip().splitlines()]


def test_readmes_example_is_a_program_of_twelve_lines() -> None:
    """The first block of README runs as a file of its own and prints what the block below it says."""
    example, output = list(blocks(ROOT / "README.md"))[:2]
    assert (example.language, output.language) == ("python", "text")
    assert len([line for line in example.text.splitlines() if line.strip()]) == 12
    done = subprocess.run(
        [sys.executable, "-c", example.text],
        capture_output=True,
        text=True,
        cwd=ROOT / "src",
        timeout=120,
        check=True,
    )
    assert done.stdout == output.text


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_make_targets_that_a_page_names_exist(page: Path) -> None:
    """`make X` in a page, in a block or between backquotes, is a target that `make help` could list."""
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z0-9-]+):", makefile, re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z][a-z0-9-]*)", page.read_text("utf-8"), re.MULTILINE))
    assert named <= targets


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_extras_that_a_page_installs_exist(page: Path) -> None:
    """`pip install "jobguard[x]"` in a page names extras of this package."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    named = {
        extra.strip()
        for group in re.findall(r"jobguard\[([a-z, ]+)\]", page.read_text("utf-8"))
        for extra in group.split(",")
    }
    assert named <= set(extras)


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent == ROOT], ids=name_of)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    """Relative links of pages outside the site name files that exist; mkdocs checks the others."""
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_ci_reads_its_test_command_from_readme() -> None:
    """README marks exactly one block as the test command, and it is the one that the first screen shows."""
    marked = re.findall(
        r"^<!-- ci: test -->\n```bash\n(.*?)^```$", (ROOT / "README.md").read_text("utf-8"), re.M | re.S
    )
    assert marked == ["make test\n"]
    assert "<!-- ci: test -->" in (ROOT / ".ci" / "run").read_text("utf-8")


def test_every_page_is_in_the_navigation() -> None:
    """A page that the site's menu leaves out would not be found."""
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8")
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert {page for page in pages if page not in navigation} == set()
