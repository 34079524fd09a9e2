"""How fast it is: ratios measured inside one run, against everybody else and against limits of the interpreter.

command     `stress bench`
groups      which rows there are
builds      the compiled build's column beside this one's
child       the process that measures it
measure     contenders that take turns, and the median of their ratios
workloads   what is asked of an allocator
throughput  rows about allocating and freeing
reporting   rows about the worker
hypervisor  rows about QEMU's balloon
virtual_time  rows about the lab
tracing     rows about tracepoints
search      rows about schedule search
growth      how costs grow
peers       other people's allocators
table       the figures, on a terminal and in files
chart       the figures as a page
"""
