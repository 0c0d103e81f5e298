"""Databases and processes that go away under a running load.

    python -m tests.faults                    # every case, one table
    python -m tests.faults -k postgresql/     # those whose name has it; a
                                              # group that is whole is kept
    python -m tests.faults --sabotage apart   # must find something: exit 1
    python -m tests.faults.soak 120           # mixed load, random faults

* ``site``      the application: views with and without a session
* ``load``      threads that send requests, and note what was acknowledged
* ``servers``   what can happen to a database
* ``cases``     one fault after the other, under a load, and the judgement
* ``failover``  a primary that is lost, and its standby
* ``cluster``   nodes of a Galera cluster that are lost
* ``processes`` what can happen to a process: SIGTERM, gunicorn
* ``soak``      the history checker, with faults, for as long as you like
* ``results``   the tables as files, for the docs
* ``sabotage``  guards of the package to remove: the cases have to notice
"""
