"""Reading what a run left behind: SQL over the log, the report, a trace for Perfetto, `/proc` at a chosen time.

    schema      SQL types and views, made from `stress.log.events`
    views       views that join and count, with what they mean
    log         a log in a temporary DuckDB database
    tables      the questions that the report answers, as SQL
    summary     the answers of one run
    terminal    the answers as tables in a terminal
    charts      the answers as pictures
    report      both in one HTML page
    perfetto    the log as a trace for the Perfetto UI
    proc        `/proc` files at a chosen time
    command     the commands

DuckDB, msgspec and plotly are the extra `analysis`; nothing outside of this folder imports them for it.
"""
