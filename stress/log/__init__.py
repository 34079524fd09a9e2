"""What a run writes down, record by record.

events    the schema: every record with its fields
recorder  a tracepoint's way into the buffer of its thread, and to the writer
writer    the process that puts buffers in order and onto the disk
hearing   from a log, read or written, to the judge
live      the judge that hears each record as it is written
tale      the harness's own records, by structlog
files     the files of a log in their order
reader    a log as records again
machine   what a log says of its machine
snapshot  a zone's whole state as records
"""
