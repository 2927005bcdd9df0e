"""`jobguard doctor`: whether a server lets jobguard keep its promises."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict

from jobguard.cli.diagnosis import Diagnosis, Finding, Guarantee, Holds, Status, diagnose
from jobguard.cli.exits import Ended, Exit
from jobguard.cli.options import (
    DEFAULT_URL,
    AsJson,
    Namespace,
    NoColor,
    Quiet,
    Url,
    make_screen,
    opened_store,
    run,
)
from jobguard.cli.screen import Screen
from jobguard.dlq import check_name
from jobguard.stores.inspection import Facts, inspect

EPILOG = "Example: jobguard doctor --url redis://localhost:6379/0"

_IN_WORDS = {Holds.YES: "yes", Holds.BOUNDED: "yes, but", Holds.UNKNOWN: "not known", Holds.NO: "no"}


def doctor(
    url: Url = DEFAULT_URL,
    namespace: Namespace = "jobguard",
    as_json: AsJson = False,
    quiet: Quiet = False,
    no_color: NoColor = False,
) -> None:
    """Whether the server lets jobguard keep its promises; exit code 6 if one of them does not hold.

    It only reads: version, persistence, memory, replication, clock, and up to 10,000 of the namespace's keys.
    """
    run(_doctor, make_screen(quiet=quiet, no_color=no_color), url, namespace, as_json)


async def _doctor(screen: Screen, url: str, namespace: str, as_json: bool) -> None:
    check_name("namespace", namespace)
    async with opened_store(url) as store:
        facts = await inspect(store.client, namespace)
    diagnosis = diagnose(facts)
    if as_json:
        screen.json({"server": _server(facts), **asdict(diagnosis)})
    else:
        screen.fields({finding.name: _finding_text(finding) for finding in diagnosis.findings})
        screen.line("")
        told = {finding.cure for finding in diagnosis.findings if finding.status is not Status.OK}
        screen.fields({each.promise: _guarantee_text(each, told) for each in diagnosis.guarantees})
    _conclude(screen, diagnosis)


def _conclude(screen: Screen, diagnosis: Diagnosis) -> None:
    """Say in a line what came out of it.

    Raises:
        Ended: a guarantee does not hold.
    """
    total = len(diagnosis.guarantees)
    broken = sum(each.holds is Holds.NO for each in diagnosis.guarantees)
    unknown = sum(each.holds is Holds.UNKNOWN for each in diagnosis.guarantees)
    if broken:
        raise Ended(Exit.THRESHOLD, f"{broken} of {total} guarantees do not hold on this server")
    if unknown:
        screen.say(f"{unknown} of {total} guarantees could not be looked into")
    else:
        screen.say(f"all {total} guarantees hold")


def _server(facts: Facts) -> dict[str, object]:
    first = facts.servers[0]
    return {
        "kind": first.kind,
        "version": first.version,
        "mode": first.mode,
        "role": first.role,
        "nodes": [each.address for each in facts.servers if each.address],
    }


def _finding_text(finding: Finding) -> str:
    """What was found; unless all is well, what it means and what to do on lines of their own."""
    lines = [f"{finding.status.value}: {finding.found}"]
    if finding.status is not Status.OK:
        lines += [finding.meaning, *_cure_lines(finding.cure)]
    return "\n".join(lines)


def _guarantee_text(guarantee: Guarantee, told: Collection[str]) -> str:
    """Whether it holds and why; what to do on a line of its own, unless findings have told that."""
    reason = f"{_IN_WORDS[guarantee.holds]}: {guarantee.because}"
    return "\n".join([reason, *_cure_lines("" if guarantee.cure in told else guarantee.cure)])


def _cure_lines(cure: str) -> list[str]:
    return [f"cure: {cure}"] if cure else []
