"""Recorded runs of the kernel's own code, replayed and compared entry for entry.

cases       the files
state       a zone's state in the recordings' form
replayer    operations as calls of this project's zones and worker
comparison  the first place at which the two part
command     `stress golden`
"""
