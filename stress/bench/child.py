"""The process behind the compiled build's column (`builds`): `python -I -m stress.bench.child [--quick]`.

It says which interpreter and peers it has; then each line that comes in names a group of rows, and each line that goes
out has them as JSON. It ends with its input.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from typing import TextIO

from stress.bench.groups import groups, measure
from stress.bench.measure import QUICK, Effort
from stress.bench.peers import find_peers
from stress.bench.table import empty_column
from stress.system.leaving import Interruption, hear_signals, raised_once


def serve(questions: Iterable[str], answers: TextIO, effort: Effort) -> None:
    """Measure what is asked for until nothing is."""
    present = find_peers()
    known = groups(effort, present)

    def answer(found: object) -> None:
        answers.write(f"{json.dumps(found)}\n")
        answers.flush()

    answer(empty_column(present).as_dict())
    for question in questions:
        answer([row.as_dict() for row in measure(known[question.strip()], effort)])


def main() -> None:
    """Serve on the standard streams: what else is printed goes where complaints go."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    hear_signals()
    try:
        with raised_once():
            serve(sys.stdin, answers, QUICK if "--quick" in sys.argv else Effort())
    except (Interruption, BrokenPipeError):  # nobody is left to be told, and threads may be in their windows
        os._exit(1)


if __name__ == "__main__":
    main()
