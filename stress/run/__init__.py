"""Stress runs: real threads, real locks and real memory, judged as they go.

command     `stress run`
params      what a run can be told
scenario    a run from a TOML file; the shipped ones are in scenarios/
directory   what a run leaves behind
view        how it looks
summary     how a run ended
conductor   the run, from start to verdict
rig         the machine under test: memory, worker, device, manners
crew        the allocator threads
torture     what disturbs a run on purpose
manners     the reporter of the moment: quick, slow, failing, away for good
settle      waiting until the worker has nothing left to do
inspection  walking through the memory, and what must be left at the end
reach       what a pass must report, and what it never will
ledger      who owns which pages, kept in another way
violations  what went wrong, in words
gauge       samples and sums
notes       what is worth a note at the end, though nothing broke
status      what a run looks like at one moment
fairness    whether all threads get on alike
footprint   what the run itself keeps
watchdog    a run that takes no step, and every thread's stack
"""
