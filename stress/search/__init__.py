"""Schedule search: the unchanged allocator and worker under a scheduler that chooses every interleaving.

world.py       coroutines on one thread; each operation on a primitive is a choice point
controlled.py  `Sync` on such a world: locks, conditions, atomics, timers, random draws
strategy.py    who chooses: exhaustive up to a number of preemptions, PCT, at random, from a recording
oracle.py      zones and a worker that hold every step against the invariants
scenarios.py   small closed programs, each aimed at one danger
explore.py     many executions of a scenario; the first that fails is shrunk
story.py       a failure told to a person, and kept in a file that replays it
"""
