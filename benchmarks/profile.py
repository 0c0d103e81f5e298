"""Where the time of a request goes, in this package and below.

    python3 -m benchmarks.profile                     S1 to S4, both databases
    python3 -m benchmarks.profile --scenarios S2 --top 30

Counts the Python calls that a scenario makes beyond the application without
session: that number is the same on a busy machine.  The times are those of
cProfile, which makes calls dear: shares, not costs.
"""

import argparse
from collections import Counter
import contextlib
import cProfile
import pstats
import sysconfig
import tempfile

from benchmarks import environment

COUNT = 300
_PURELIB = sysconfig.get_path('purelib') + '/'
_STDLIB = sysconfig.get_path('stdlib') + '/'


def profile(call):
    """Return {function: (calls, µs)} of one request."""
    for _ in range(50):
        call()
    profiler = cProfile.Profile()
    profiler.enable()
    for _ in range(COUNT):
        call()
    profiler.disable()
    return {
        function: (calls / COUNT, own * 1e6 / COUNT)
        for function, (_, calls, own, _, _) in (
            pstats.Stats(profiler).stats.items()
        )
    }


def beyond(scenario, without):
    """Return what *scenario* has more than *without*."""
    return {
        function: (
            calls - without.get(function, (0, 0))[0],
            own - without.get(function, (0, 0))[1],
        )
        for function, (calls, own) in scenario.items()
    }


def module_of(function):
    """Return where a function comes from, as short as can be."""
    path = function[0]
    if path == '~':
        return 'built-in'
    if path.startswith(_PURELIB):
        return path[len(_PURELIB):].partition('/')[0]
    if path.startswith(_STDLIB):
        return 'standard library'
    return path.removeprefix(f'{environment.ROOT}/')


def show(name, found, top):
    """Print a scenario by module, then its dearest functions."""
    calls, times = Counter(), Counter()
    for function, (count, own) in found.items():
        calls[module_of(function)] += count
        times[module_of(function)] += own
    print(f'\n{name}: {sum(calls.values()):.0f} calls beyond S0')
    for module, own in times.most_common():
        if calls[module] >= 0.5:
            print(f'  {calls[module]:7.1f} {own:8.1f} µs  {module}')
    dearest = sorted(found.items(), key=lambda item: -item[1][1])[:top]
    for (path, line, function), (count, own) in dearest:
        where = module_of((path, line, function))
        print(f'    {count:5.1f} {own:8.1f} µs  {where}:{line} {function}')


@contextlib.contextmanager
def database(name):
    """Yield the URL of an empty database."""
    from benchmarks import servers

    if name == 'sqlite':
        with tempfile.TemporaryDirectory() as folder:
            yield f'sqlite:///{folder}/profile.sqlite'
    else:
        with servers.postgresql() as server:
            yield server.url


def arguments(args):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add('--databases', nargs='+', default=['sqlite', 'postgresql'])
    add('--scenarios', nargs='+', default=['S1', 'S2', 'S3', 'S4'])
    add('--top', type=int, default=12, help='dearest functions of each')
    return parser.parse_args(args)


def main(args=None):
    options = arguments(args)
    if args is None:
        environment.enter('benchmarks.profile')
    from benchmarks.systems import sqlasession

    for name in options.databases:
        with database(name) as url:
            calls = sqlasession.make(url)
            without = {
                kind: profile(calls[f'{kind}0']) for kind in ('S', 'Q')
            }
            print(f'\n=== {name}')
            for scenario in options.scenarios:
                found = beyond(profile(calls[scenario]), without[scenario[0]])
                show(scenario, found, options.top)


if __name__ == '__main__':
    main()
