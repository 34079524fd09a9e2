"""The lab says which order, delay, capacity and policy guests would need.

virtual         time that stands still until it is moved; Linux's timer wheel
guest           zones, CPUs, kernel, start state
proc_state      a guest's state as `/proc` prints it
placement       free lists from counts
exact_state     free lists block for block, from a recorded case or JSON
recording       trace text of a real guest: its load, and what its reporter really did
guest_log       a guest that reported to our own device, as a recording
loads           made-up loads, memory curves, recordings
host            what is resident, what comes in again, what that costs
engine          one machine in virtual time
options         what one prediction is made from, and grids of that
predict         one point: options in, a row out
recorded_truth  what really happened, beside what was predicted
sweep           many points, on any executor
answer          from rows to a sentence
tables          the figures that people see
page            the answer as a page
validate        published figures that the lab must meet
run_log         the ordinary run log of a predicted guest
command         `stress lab`
"""
