"""A randomised checker of histories: is a session ever lost or revived?

    python -m tests.checker --database URL --seconds 60 --seed 7 \
        --threads 4 --processes 2

Workers (threads in processes) send random requests to shared sessions of a
real database, and note what each was told.  At the end a model judges the
whole history against the promises.  All that the workers do is drawn from
the seed, worker by worker; how the requests interleave is up to the machine.

* ``plan``     what a worker does next: a pure function of the seed
* ``site``     the application that is tested, in the words of ``plan``
* ``worker``   runs the plan over WSGI and notes what it was told
* ``model``    judges a history: no database, no application
* ``sabotage`` guards of the package to remove: the checker has to notice
* ``run``      starts the processes, collects, prints

Another session system is checked by another ``site``: an application that
answers the same requests (``--site package.module``).
"""
