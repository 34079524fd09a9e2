"""Schedule search: the unchanged allocator and worker under a scheduler that chooses every interleaving.

    kit             what a scenario is made of: a small watched machine in a controlled world
    setup           what scenarios do before anybody else is there is done once
    machine         watched zones, booted once for all executions of a program
    oracle          every step held against the invariants
    fields          fields of the product's objects, watched
    lockless        points at what is read and written without a lock
    guarded         what belongs to a lock is touched under it
    narration       what a story says of works and page sets
    known           what was judged before is looked up
    trial           a user's reporter in all executions of a search
    scenarios       small closed programs, each aimed at one danger
    explore         many executions of a scenario; the first that fails is shrunk
    jobs            searches as jobs for processes
    replay          a failure in a file, and executed again
    story           a failure told to a person
    command         `stress explore`
    replay_command  `stress replay`

Worlds, strategies and shrinking are `stress.controlled`, which knows no pages.
"""
