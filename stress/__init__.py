"""The instruments: stress runs and their checks, the replay of recorded kernel runs, the command line."""
