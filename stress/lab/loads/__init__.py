"""What guests do: made-up loads, memory curves, and recordings of real guests.

A load is a generator that gets the machine and yields the time of its next step, in seconds; it acts when it is resumed
at that time:

    def two_bursts(machine):
        yield 1.0
        blocks = [machine.alloc(order=9) for _ in range(100)]
        yield 5.0
        for pfn in blocks:
            machine.free(pfn, order=9)

synthetic  nothing, a burst, a churn, functions, memory with holes
curve      used and cached memory over time
recorded   a recorded guest, at the level of the zone or of calls
catalogue  loads by name
"""
