"""All scenarios, in the order in which a search goes through them: first those where most faults show."""

from __future__ import annotations

from stress.search.scenarios import (
    borders,
    catalogue,
    life,
    limits,
    pairs,
    policies,
    primitives,
    races,
    requests,
    sets,
    types,
    vectors,
)
from stress.search.scenarios.catalogue import Body, Scenario

__all__ = ["SCENARIOS", "Body", "Scenario"]

_ORDER = [
    module.__name__
    for module in (races, vectors, life, sets, pairs, limits, policies, requests, types, borders, primitives)
]

SCENARIOS = dict(
    sorted(catalogue.SCENARIOS.items(), key=lambda entry: _ORDER.index(entry[1].body.__module__))
)
