"""The invariants by name, in words: what a checker cites, a reader can look up here.

S are about safety: they hold at every moment at which no lock is held. L are about liveness: they hold if
reporters return and threads get to run.
"""

from __future__ import annotations

INVARIANTS = {
    "S1": "Reported stands only on the head of a free block that is on exactly one list",
    "S2": "every page is in exactly one place: free, on a page set, allocated, or in flight",
    "S3": "blocks are aligned and do not overlap, and free buddies have merged",
    "S4": "the free counts are the lengths of the lists",
    "S5": "the free pages are those of the listed blocks, withheld pageblocks left out",
    "S6": "a list's migratetype is one that its blocks may have; since v6.10 that of their pageblocks",
    "S7": "a block of several pageblocks spans only types that may merge",
    "S8": "a page loses Reported before it stops being free",
    "S9": "lists and marks change only under their zone's lock, and no zone lock is held while a reporter runs",
    "S10": "a block in flight is nobody's: on no list, never allocated, in one batch once",
    "S11": "a batch has 1 to capacity blocks of one zone, aligned, of the orders asked for, none withheld",
    "S12": "while the host has a block nobody else touches it, and afterwards nobody relies on its content",
    "S13": "a Reported block was told to a device, whole, since it was last in use",
    "S14": "no block is Reported after a failed report, after merging, or as a mere piece of another",
    "S15": "nothing stays in flight when the worker leaves a zone",
    "S16": "a zone is visited, and a block taken, only as far above the watermarks as the rules say",
    "S17": "one visit to a list makes no more report calls than its budget allows",
    "S18": "no block is reported twice while it stays free and whole",
    "S19": "a rotation keeps a list's cyclic order",
    "S20": "a block goes back on the list of its pageblock's type as it is now",
    "S21": "putting a block back asks nobody for a report",
    "S22": "one device at a time, and its reporter never runs after unregister has returned",
    "S23": "idle means that no pass is armed or runs; requested means that one is",
    "S24": "a free asks for a report exactly when its block ends up large enough, and then is on a list",
    "S25": "an allocated block has a clean state, and is all zero if that was asked for",
    "S26": "after a lock was dropped the walk goes on with a block that is on the list",
    "S1..S5": "every block has one place, lists and counts agree, and Reported stands only on free blocks",
    "L1": "a pass begins after every request, so no block that was freed is forgotten",
    "L2": "when frees stop, everything is reported within the passes that the budget allows",
    "L3": "a quiet system comes to rest",
    "L4": "every block in flight comes back after its report",
    "L5": "unregister ends if the reporter does, and registering again works",
    "L6": "an allocation waits no longer than one hold of the lock",
    "L7": "an allocation that failed because of pages in flight or on page sets succeeds when they are back",
    "L8": "a failed batch is retried at the next request",
    "witness": "the run itself saw nothing wrong",
    "log": "what is told of an event agrees with what is told of others",
    "stats": "the worker counts the batches and blocks that there were",
    "vectors": "lists, batches and types are the kernel's, entry for entry",
    "deadlock": "nobody waits for ever",
    "livelock": "every execution ends",
    "lockdep": "locks are taken in one order, what belongs to one is touched under it, and nobody at rest holds one",
    "exception": "the product raises nothing that it did not promise",
}
