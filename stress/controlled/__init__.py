"""A world in which a scheduler chooses every interleaving; it knows nothing of pages.

world     coroutines on one thread; each operation on a primitive is a choice point
sync      `Sync` on such a world: locks, conditions, atomics, timers, random draws
memory    a world with store buffers, where a plain store may wait
lockdep   the order of lock classes, judged from single chains
strategy  who chooses: exhaustive up to a number of preemptions, PCT, at random, from a recording
shrink    from a schedule that fails to one with fewer switches
"""
