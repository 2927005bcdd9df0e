"""`jobguard doctor`: whether a server lets jobguard keep its promises."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict

from jobguard.cli.calling import Call, command
from jobguard.cli.diagnosis import Diagnosis, Finding, Guarantee, Holds, Status, diagnose
from jobguard.cli.exits import Ended, Exit
from jobguard.cli.options import opened_store
from jobguard.cli.screen import Screen
from jobguard.policies import check_namespace
from jobguard.stores.inspection import Facts, inspect

_IN_WORDS = {Holds.YES: "yes", Holds.BOUNDED: "yes, but", Holds.UNKNOWN: "not known", Holds.NO: "no"}


@command("doctor", "jobguard doctor --url redis://localhost:6379/0", queue=False)
def doctor(call: Call) -> None:
    """Whether the server lets jobguard keep its promises; exit code 6 if one of them does not hold.

    It only reads: version, persistence, memory, replication, clock, and up to 10,000 of the namespace's keys.
    """
    call.run(_doctor)


async def _doctor(call: Call) -> None:
    check_namespace(call.namespace)
    async with opened_store(call.url) as store:
        facts = await inspect(store.client, call.namespace)
    diagnosis, screen = diagnose(facts), call.screen
    if not call.tell({"server": _server(facts), **asdict(diagnosis)}):
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
