"""Events, kept to be looked at."""

from __future__ import annotations

from typing import TypeVar

from jobguard.events import Event

E = TypeVar("E", bound=Event)


class EventLog:
    """A hook that keeps what it is told: `JobGuard(store, hooks=[log])`.

    Attributes:
        events: all events so far, oldest first.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event, /) -> None:
        self.events.append(event)

    def of(self, kind: type[E]) -> list[E]:
        """The events of one kind, oldest first."""
        return [event for event in self.events if isinstance(event, kind)]

    def clear(self) -> None:
        self.events.clear()

    def __repr__(self) -> str:
        return f"EventLog({[type(event).__name__ for event in self.events]})"
