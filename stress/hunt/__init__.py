"""Every planted fault, and what finds it: schedules, threads, the log.

command  `stress mutants`
"""
