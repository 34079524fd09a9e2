"""Recorded runs of the kernel's own code, replayed and compared entry for entry; and page sets, call for call.

cases           the files
state           a zone's state in the recordings' form
replayer        operations as calls of this project's zones and worker
comparison      the first place at which the two part
command         `stress golden`
follow          calls of a running kernel's users through our page sets
follow_command  `stress follow`
"""
