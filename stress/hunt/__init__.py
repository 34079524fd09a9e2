"""Every instrument at once: over the code as it is, and over every planted fault.

pieces         what `stress check` looks at, an instrument at a time
check_command  `stress check`
command        `stress mutants`
"""
