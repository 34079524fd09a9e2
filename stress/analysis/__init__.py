"""Reading what a run left behind: the verdict, SQL over the log, the report, a trace, `/proc` at a chosen time.

    verify           the invariants decided from the log alone
    schema           SQL types and views, made from `stress.log.events`
    views            views that join and count, with what they mean
    log              a log in a temporary DuckDB database
    tables           the questions that the report answers, as SQL
    summary          the answers of one run
    grids            the answers in rows and columns
    terminal         the answers as tables in a terminal
    charts           the answers as pictures
    report           both in one HTML page
    perfetto         the log as a trace for the Perfetto UI
    proc             `/proc` files at a chosen time
    trace_text       the log as the text of the kernel's trace
    verify_command   `stress verify`
    analyze_command  `stress analyze`
    sql_command      `stress sql`
    proc_command     `stress proc`

DuckDB, msgspec and plotly are the extra `analysis`; nothing outside of this folder imports them for it.
"""
