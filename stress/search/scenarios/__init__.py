"""All scenarios, in the order in which a search goes through them."""

from __future__ import annotations

from stress.search.scenarios import races, vectors
from stress.search.scenarios.catalogue import SCENARIOS, Body, Scenario

__all__ = ["SCENARIOS", "Body", "Scenario", "races", "vectors"]
