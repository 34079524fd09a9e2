"""Texts that other tools read.

procfs    `/proc/buddyinfo`, `pagetypeinfo` and `zoneinfo`, as the kernel prints them
perfetto  Chrome trace events
ftrace    the text of a kernel's trace: from any of its writers, and written
"""
