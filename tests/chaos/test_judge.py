"""The judge knows each broken promise when it sees one, and no others."""

from __future__ import annotations

from typing import Any

import pytest

from chaos.judge import ENDS_WITHIN, INTERVAL, Rest, Verdict, judge
from chaos.orders import ATTEMPTS, MAX_CRASHES

LEASE = 3.0


class Story:
    """What journals tell, written down by hand: times are seconds from the beginning."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self.results: dict[str, bool] = {}
        self.letters: list[tuple[str, str]] = []
        self.queued: list[str] = []
        self.unowned: list[str] = []
        self._runs = 0

    def tell(self, at: float, what: str, **values: object) -> None:
        self.entries.append({"at": at, "what": what, **values})

    def order(self, label: str, task: str = "keyed", key: str = "", **script: object) -> None:
        self.tell(0, "order", label=label, task=task, key=key or f"key-{label}", script=script)
        self.tell(0, "accepted", label=label)

    def run(
        self,
        label: str,
        begin: float,
        end: float | None,
        how: str = "ok",
        *,
        fence: int | None = None,
        pid: int = 1,
        key: str = "",
        signs: tuple[float, ...] = (),
        told: int = 0,
    ) -> None:
        """A run of a body; `end=None`: it wrote nothing more. `told`: failures that it was told of."""
        self._runs += 1
        run = f"run-{self._runs}"
        fence = self._runs if fence is None else fence
        place = {"key": key or f"key-{label}", "pid": pid, "fence": fence, "failures": told}
        self.tell(begin, "begin", run=run, label=label, **place)
        for sign in signs:
            self.tell(sign, "step", run=run)
        if end is not None:
            self.tell(end, "end", run=run, how=how)

    def ends(self, label: str, *, well: bool = True, letter: str = "") -> None:
        self.results[label] = well
        if letter:
            self.letters.append((label, letter))

    def judged(self, *, admits_loss: bool = False) -> Verdict:
        entries = sorted(self.entries, key=lambda entry: entry["at"])
        rest = Rest(self.results, self.letters, self.queued, self.unowned)
        return judge(entries, rest, LEASE, admits_loss=admits_loss)

    def broken(self) -> set[str]:
        return {violation.invariant for violation in self.judged().violations}


@pytest.fixture
def story() -> Story:
    return Story()


def test_finds_nothing_where_nothing_is_wrong(story: Story) -> None:
    """Success, a retry, a discard, a dead letter, and a job that was run again after its worker's death."""
    story.order("well")
    story.run("well", 1, 2)
    story.ends("well")
    story.order("again", fail=1)
    story.run("again", 1, 2, "fail")
    story.run("again", 3, 4, told=1)
    story.ends("again")
    story.order("unwanted", discard=True)
    story.run("unwanted", 1, 2, "discard")
    story.ends("unwanted", well=False)
    story.order("dead", fail=99)
    for number in range(ATTEMPTS):
        story.run("dead", 1 + number, 1.5 + number, "fail")
    story.ends("dead", well=False, letter="exhausted")
    story.order("cut")
    story.run("cut", 1, None, pid=7)
    story.tell(1.5, "died", pid=7)
    story.run("cut", 1.5 + LEASE, 6)
    story.ends("cut")
    verdict = story.judged()
    assert verdict.violations == ()
    assert verdict.checked["conservation"] == 5
    assert verdict.figures["seconds of recovery: longest of those judged"] == LEASE


def test_a_job_of_which_nothing_is_known_is_lost(story: Story) -> None:
    """It was accepted, and has neither a result nor a letter."""
    story.order("lost")
    story.run("lost", 1, 2)
    assert story.broken() == {"conservation"}


def test_a_job_that_still_waits_has_been_forgotten(story: Story) -> None:
    """There is no fault left that it could be waiting for."""
    story.order("waiting")
    story.queued.append("waiting")
    assert story.broken() == {"conservation"}


def test_a_success_without_work_is_none(story: Story) -> None:
    """Its queue says that it succeeded, and no body did."""
    story.order("idle")
    story.run("idle", 1, 2, "cancelled")
    story.ends("idle")
    assert story.broken() == {"conservation"}


def test_a_duplicate_succeeds_by_the_work_of_another(story: Story) -> None:
    """Two jobs with one key need one body that ended well."""
    for label in ("one", "two"):
        story.order(label, key="shared")
        story.ends(label)
    story.run("one", 1, 2, key="shared")
    assert story.broken() == set()


def test_a_failure_without_a_letter_is_lost(story: Story) -> None:
    """Unless somebody has discarded it."""
    story.order("failed", fail=99)
    for number in range(ATTEMPTS):
        story.run("failed", 1 + number, 1.5 + number, "fail")
    story.ends("failed", well=False)
    assert story.broken() == {"conservation"}


def test_two_letters_of_a_job_are_one_too_many(story: Story) -> None:
    """And a job that succeeded has none."""
    story.order("twice", fail=99)
    for number in range(ATTEMPTS):
        story.run("twice", 1 + number, 1.5 + number, "fail")
    story.ends("twice", well=False, letter="exhausted")
    story.letters.append(("twice", "exhausted"))
    assert story.broken() == {"one terminal record"}


def test_a_letter_of_a_job_that_succeeded_is_a_second_end(story: Story) -> None:
    """Whatever its reason."""
    story.order("both", fail=99)
    for number in range(ATTEMPTS):
        story.run("both", 1 + number, 1.5 + number, "fail")
    story.run("both", 8, 9)
    story.ends("both", letter="exhausted")
    assert story.broken() == {"one terminal record"}


def test_a_letter_of_nobodys_job_is_one_too_many(story: Story) -> None:
    """Such as one of an entry that a finished job has left in its queue."""
    story.letters.append(("ghost", "expired"))
    assert story.broken() == {"one terminal record"}


@pytest.mark.parametrize("fence", [None, 0])
def test_a_body_at_work_after_the_next_has_begun_is_an_overlap(story: Story, fence: int | None) -> None:
    """Under a lease on the key, and under the queue's lock."""
    story.order("both", task="plain" if fence is None else "keyed")
    story.run("both", 1, 4, pid=1, signs=(2, 3))
    story.run("both", 2.5, 5, pid=2)
    story.tell(2, "net", slot="w", kind="half-open", began=0.5)
    story.tell(0, "born", pid=1, name="w")
    story.tell(0, "born", pid=2, name="w")
    story.ends("both")
    if fence is None:
        for entry in story.entries:
            if entry["what"] == "begin":
                entry["fence"] = None
    [name] = story.broken()
    assert name.startswith("no overlap")


def test_a_process_that_stood_still_may_not_have_noticed(story: Story) -> None:
    """Until it goes on: then it has to end the body."""
    story.order("frozen")
    story.tell(1.5, "signal", pid=1, name="SIGSTOP")
    story.tell(6.0, "signal", pid=1, name="SIGCONT")
    story.run("frozen", 1, 6.1, "ok", pid=1, signs=(6.05,))
    story.run("frozen", 5, 5.5, pid=2)
    story.ends("frozen")
    assert story.broken() == set()
    story.tell(7.0, "step", run="run-1")
    assert story.broken() == {"no overlap (lease on the key)"}


def test_a_fence_that_does_not_rise_is_none(story: Story) -> None:
    """Of two runs one after the other, the later one has the higher."""
    story.order("fenced", fail=1)
    story.run("fenced", 1, 2, "fail", fence=9)
    story.run("fenced", 3, 4, fence=9)
    story.ends("fenced")
    assert story.broken() == {"fences rise"}


def test_more_failures_than_attempts_are_too_many(story: Story) -> None:
    """Unless a worker died before one could be recorded."""
    story.order("again and again", fail=99)
    for number in range(ATTEMPTS + 1):
        story.run("again and again", 1 + number, 1.5 + number, "fail", pid=number)
    story.ends("again and again", well=False, letter="exhausted")
    assert story.broken() == {"attempts mean failures"}
    story.tell(1.6, "died", pid=0)
    assert story.broken() == set()


def test_a_failure_that_has_not_been_is_not_counted(story: Story) -> None:
    """A body that is told of more failures than were written before it was robbed of an attempt."""
    story.order("told", fail=1)
    story.run("told", 1, 2, "cancelled")
    story.run("told", 3, 4, told=1)
    story.ends("told")
    assert story.broken() == {"attempts mean failures"}


def test_a_job_that_was_to_fail_once_is_not_dead(story: Story) -> None:
    """Whatever its letter says."""
    story.order("dead", fail=1)
    for number in range(ATTEMPTS):
        story.run("dead", 1 + number, 1.5 + number, "fail")
    story.ends("dead", well=False, letter="exhausted")
    assert story.broken() == {"attempts mean failures"}


def test_nothing_but_a_failure_uses_up_an_attempt(story: Story) -> None:
    """A job that is dead before it has failed so often was robbed of an attempt."""
    story.order("robbed", fail=99)
    for number in range(ATTEMPTS):
        story.run("robbed", 1 + number, 1.5 + number, "fail" if number else "cancelled")
    story.ends("robbed", well=False, letter="exhausted")
    assert story.broken() == {"attempts mean failures"}


def test_a_crash_needs_somebody_who_died(story: Story) -> None:
    """Dead for its crashes is who was cut off often enough."""
    story.order("crashed")
    for number in range(MAX_CRASHES - 1):
        story.run("crashed", 10 * number, None, pid=number)
        story.tell(10 * number + 1, "died", pid=number)
    story.ends("crashed", well=False, letter="crashes")
    assert "attempts mean failures" in story.broken()
    for number in range(MAX_CRASHES):  # one of which ended its worker before the body began
        story.tell(10 * number - 1, "picked", label="crashed", pid=number)
    assert "attempts mean failures" not in story.broken()


def test_work_that_is_repeated_without_a_fault_is_a_fault(story: Story) -> None:
    """Two bodies ended well, and nothing had befallen the first one's worker."""
    story.order("twice")
    story.run("twice", 1, 2)
    story.run("twice", 3, 4)
    story.ends("twice")
    assert story.broken() == {"no work is repeated without a fault"}
    story.tell(2.1, "died", pid=1)
    assert story.broken() == set()


@pytest.mark.parametrize("kind", ["latency", "cut", "reply lost"])
def test_work_may_not_be_repeated_for_a_connection_that_is_lost(story: Story, kind: str) -> None:
    """Only for one that hangs: then the outcome cannot be written while the lease holds."""
    story.order("twice")
    story.tell(0, "born", pid=1, name="w")
    story.tell(1.8, "net", slot="w", kind=kind, began=1.5)
    story.run("twice", 1, 2)
    story.run("twice", 6, 7)
    story.ends("twice")
    assert story.broken() == {"no work is repeated without a fault"}
    story.tell(1.9, "net", slot="w", kind="half-open", began=1.5)
    assert story.broken() == set()


def test_a_supervised_worker_that_ends_by_itself_is_reported(story: Story) -> None:
    """A stock one may."""
    story.tell(1, "born", pid=1, name="supervised-4")
    story.tell(1, "born", pid=2, name="stock-0")
    story.tell(2, "died", pid=1)
    story.tell(2, "died", pid=2)
    assert story.broken() == {"a supervised worker outlives Redis"}
    story.tell(1.5, "signal", pid=1, name="SIGKILL")
    assert story.broken() == set()


def test_a_worker_that_does_not_end_when_it_is_told_to_is_reported(story: Story) -> None:
    """Within the time that it has for that."""
    story.tell(1, "born", pid=2, name="stock-0")
    story.tell(2, "signal", pid=2, name="SIGTERM")
    story.tell(3 + ENDS_WITHIN, "died", pid=2)
    assert story.broken() == {"SIGTERM ends a worker"}


@pytest.mark.parametrize("runs", [0, 2])
def test_a_letter_that_is_requeued_runs_once(story: Story, runs: int) -> None:
    """Neither never nor twice."""
    story.order("dead", fail=99)
    for number in range(ATTEMPTS):
        story.run("dead", 1 + number, 1.5 + number, "fail")
    story.ends("dead", well=False, letter="exhausted")
    story.tell(10, "mended")
    for number in range(runs):
        story.run("dead", 11 + number, 11.5 + number)
    assert story.broken() == {"a dead letter replays once"}


def test_a_key_that_would_stay_for_ever_is_reported(story: Story) -> None:
    """By its name."""
    story.unowned.append("jobguard:forgotten")
    [violation] = story.judged().violations
    assert (violation.invariant, violation.subject) == (
        "no key without an end or an owner",
        "jobguard:forgotten",
    )


def test_a_job_that_comes_back_too_late_is_reported(story: Story) -> None:
    """If nothing else had happened in between; with another fault nothing is said."""
    story.order("late")
    story.run("late", 1, None, pid=7)
    story.tell(1.5, "died", pid=7)
    story.run("late", 1.5 + LEASE + INTERVAL + 0.1, 9)
    story.ends("late")
    assert story.broken() == {"recovery within lease and interval"}
    story.tell(3, "outage", began=2)
    assert story.broken() == set()


@pytest.mark.parametrize("grief", ["it died", "it was cut off", "it lost a reply"])
def test_a_worker_that_took_a_job_up_and_came_to_grief_has_had_it_for_a_lease(
    story: Story, grief: str
) -> None:
    """Even if it never heard that it had the job; whoever asked for another job, or is well, is no excuse."""
    story.order("late")
    story.run("late", 1, None, pid=7)
    story.tell(1.5, "died", pid=7)
    story.run("late", 4 + LEASE, 9)
    story.ends("late")
    story.tell(0.5, "born", pid=8, name="stock-8")
    story.tell(3, "taken", label="another", pid=8)
    if grief == "it died":
        story.tell(3.1, "died", pid=8)
    else:
        story.tell(
            3.1, "net", slot="stock-8", began=3, kind="cut" if grief == "it was cut off" else "reply lost"
        )
    assert story.broken() == {"recovery within lease and interval"}
    story.tell(3, "taken", label="late", pid=9)
    assert story.broken() == {"recovery within lease and interval"}
    story.tell(3, "taken", label="late", pid=8)
    verdict = story.judged()
    assert verdict.violations == ()
    assert verdict.figures["seconds of recovery: longest of those judged"] == pytest.approx(LEASE + 0.9)


def test_a_job_waits_for_another_that_has_its_key(story: Story) -> None:
    """From the end of that one, it has a lease and an interval."""
    story.order("late", key="shared")
    story.order("other", key="shared", discard=True)
    story.run("late", 1, None, pid=7, key="shared")
    story.tell(1.5, "died", pid=7)
    story.run("other", 4, 5, "discard", key="shared")
    story.run("late", 5 + LEASE + INTERVAL - 0.1, 11, key="shared")
    story.ends("late")
    story.ends("other", well=False)
    assert story.broken() == set()


def test_what_a_failover_may_lose_is_counted_and_no_violation(story: Story) -> None:
    """If the job was enqueued just before; another one must not be lost."""
    story.order("just before")
    story.order("long before")
    story.run("long before", 1, 2)
    story.entries[1]["at"] = 49.5
    story.tell(52, "outage", began=50)
    verdict = story.judged(admits_loss=True)
    assert [violation.subject for violation in verdict.violations] == ["long before"]
    assert verdict.figures["admitted after a failover: jobs lost"] == 1


def test_a_violation_tells_all_that_is_known_of_the_job(story: Story) -> None:
    """And of the process that ran it, in order of time."""
    story.order("other")
    story.order("lost")
    story.tell(0.5, "born", pid=1, name="stock-0")
    story.run("lost", 1, 2)
    story.tell(3, "died", pid=1)
    story.run("other", 1, 2, pid=2)
    story.ends("other")
    [violation] = story.judged().violations
    told = [line.split()[2] for line in violation.history]
    assert told == ["order", "accepted", "born", "begin", "end", "died"]
    assert not any("other" in line for line in violation.history)
