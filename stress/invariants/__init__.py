"""The invariants S1 .. S26 and L1 .. L8, written once.

`names` has them in words. `shadow` and `judge` decide them from the stream of tracepoint events, whoever
brings it: a search hands every event over as it happens, `stress verify` reads them from a log. `agreement` holds
records against each other: all of a log, and those of a search's first execution. What is a matter of a zone's state
alone is `pagealloc.validate`, which a search asks whenever a lock is given back, and a stress run at quiescent points.
"""

from __future__ import annotations

from stress.invariants.agreement import Agreement
from stress.invariants.judge import Judge
from stress.invariants.names import INVARIANTS
from stress.invariants.shadow import ShadowZone

__all__ = ["INVARIANTS", "Agreement", "Judge", "ShadowZone"]
