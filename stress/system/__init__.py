"""What the operating system does to a command, and a command to it.

leaving     a signal ends a command where it stands, with nothing left behind
files       read within bounds, written whole or not at all
terminal    results keep their figures in a terminal of any width
"""
