"""Planted faults: plausible bugs, patched in at run time to show that the checks see them.

Each has a number of its own; a letter behind the number is one more way to make the same mistake. Nearly all
are written as the diff that a bad patch would be (see `planting`). Nothing outside this folder knows them.

One module for each kind: `flags`, `races`, `batches`, `visits`, `states`, `life`, `rest`, `types`,
`company`, `limits`, `figures`, `records`, `locks`,
`pairs`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from stress.mutants.batches import BATCHES
from stress.mutants.company import COMPANY
from stress.mutants.figures import FIGURES
from stress.mutants.flags import FLAGS
from stress.mutants.life import LIFE
from stress.mutants.limits import LIMITS
from stress.mutants.locks import LOCKS
from stress.mutants.pairs import PAIRS
from stress.mutants.planting import Edit, Mutant, StaleMutant, install
from stress.mutants.races import RACES
from stress.mutants.records import RECORDS
from stress.mutants.rest import REST
from stress.mutants.states import STATES
from stress.mutants.types import TYPES
from stress.mutants.visits import VISITS

__all__ = ["MUTANTS", "NOT_EXPRESSIBLE", "Edit", "Mutant", "StaleMutant", "planted"]

MUTANTS: dict[str, Mutant] = {
    **FLAGS,
    **RACES,
    **BATCHES,
    **VISITS,
    **STATES,
    **LIFE,
    **REST,
    **TYPES,
    **COMPANY,
    **LIMITS,
    **FIGURES,
    **RECORDS,
    **LOCKS,
    **PAIRS,
}

NOT_EXPRESSIBLE = {
    "M-4a": "Buddy and Reported share one byte: no reader without the lock sees one cleared before the other",
    "M-5e": "debug guard pages and poisoned pages are not modelled: nothing else takes a block off a list",
    "M-18a": "a page in flight has no reference count, so its last reference cannot be dropped to a page set",
    "M-24a": "a Python list knows its length: an entry that is not marked as the end overruns nothing",
    "M-31a": "counting a call before it is made is no fault: the budget is tested only between two calls",
    "M-38a": "there is no CMA migratetype to be skipped",
    "M-43a": "free lists are never shuffled, so a putback cannot ask for a random end",
    "M-59a": "the machine is never suspended; a device that goes before its worker has ended is M-59",
    "M-61a": "pages are never poisoned, so there is no pattern that a report could destroy",
    "M-63a": "compaction capture is not modelled; a hand-over that leaves the block listed is M-63",
}


@contextmanager
def planted(name: str | None) -> Iterator[None]:
    """Plant a fault for a while; None plants nothing. Raises KeyError for a name that is none."""
    with install(MUTANTS[name].patches if name is not None else ()):
        yield
