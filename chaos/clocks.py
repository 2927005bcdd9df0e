"""Clocks: workers whose wall clocks are an hour ahead, an hour behind, or jump between the two."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from chaos.report import Report, Scale
from chaos.soak import Plan, soak_one_server

HOUR = 3600.0
PLAN = Plan(
    "clocks",
    0,
    jobs=1_500,
    seconds=45,
    kills=30,
    terms=6,
    stops=4,
    network=60,
    stock=4,
    supervised=2,
    clocks=(
        None,
        {"ahead": HOUR},
        {"ahead": -HOUR},
        {"ahead": -HOUR, "step": 2 * HOUR, "every": 2.0},
        {"ahead": HOUR},
        {"ahead": 0.0, "step": -HOUR, "every": 3.0},
    ),
)
PLANS = {
    Scale.BRIEF: replace(PLAN, jobs=400, seconds=12, kills=8, terms=2, stops=1, network=15),
    Scale.FULL: PLAN,
    Scale.LONG: replace(PLAN, jobs=15_000, seconds=450, kills=300, terms=60, stops=40, network=600),
}


def run(seed: int, scale: Scale) -> Report:
    return asyncio.run(soak_one_server(replace(PLANS[scale], seed=seed)))
