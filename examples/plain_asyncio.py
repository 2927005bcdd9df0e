"""The decorators without any queue: plain calls of plain coroutines, with records in memory.

python examples/plain_asyncio.py
"""

# ruff: noqa: T201  (it tells its story on standard output)

from __future__ import annotations

import asyncio

from jobguard import (
    GiveUp,
    JobGuard,
    current_job,
    dead_letter,
    deduplicated,
    exponential,
    fallback,
    retrying,
    time_limit,
)
from jobguard.stores import MemoryStore


class BankBusy(Exception):
    """The bank asks to be tried again."""


@deduplicated(key="{order}", running="wait")
@retrying(on=BankBusy, attempts=3, backoff=exponential(0.05, cap=1))
@dead_letter(queue="payments", redact=("card",))
async def charge(order: str, amount: int, card: str) -> str:
    """Charge a card once for an order, however often it is asked for."""
    job = current_job()
    print(f"  asking the bank: {order}, attempt {job.attempt}")
    await asyncio.sleep(0.01)
    if card == "stolen":
        raise GiveUp(f"the card {card!r} is refused")
    if job.attempt == 1:
        raise BankBusy("too many requests")
    return f"receipt for {amount} on {order}"


@time_limit(0.05)
@fallback("no recommendations today")
async def recommend(customer: str) -> str:
    """Answer in time, if need be with less."""
    await asyncio.sleep(10)
    return f"something for {customer}"


async def main() -> None:
    async with JobGuard(MemoryStore()) as guard:
        print("A busy bank: the call is tried again.")
        print(" ", await charge("order-1", 20, "good"))

        print("The same order once more: the receipt of the first time, and no word to the bank.")
        print(" ", await charge("order-1", 20, "good"))

        print("Three at once: one runs, the others wait for what it returns.")
        for receipt in await asyncio.gather(*(charge("order-2", 5, "good") for _ in range(3))):
            print(" ", receipt)

        print("A stolen card: no second attempt, and the job is kept for people to look at.")
        try:
            await charge("order-3", 99, "stolen")
        except Exception as error:
            print(f"  {type(error).__name__}: {error}")
        for letter in (await guard.dead_letters("payments").list()).entries:
            print(f"  dead letter: {letter.preview}, because of {letter.error_message!r}")

        print("A slow service: the answer that stands in for it.")
        print(" ", await recommend("customer-1"))


if __name__ == "__main__":
    asyncio.run(main())
