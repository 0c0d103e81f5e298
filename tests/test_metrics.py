"""What OpenTelemetry is told, read with the SDK's in-memory reader."""

import subprocess
import sys
import textwrap

from opentelemetry.sdk.metrics import Counter
from opentelemetry.sdk.metrics import Histogram
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
import pytest
import sqlalchemy as sa

from pyramid_sqlasession import SessionStoreUnavailable
from pyramid_sqlasession.metrics import Metrics

from . import meeting as acts
from .failing import answering
from .failing import on_sqlite
from .failing import refuse_connections
from .meeting import Meeting

DELTA = AggregationTemporality.DELTA


class Meter:
    """What was counted since the last look."""

    def __init__(self):
        self._reader = InMemoryMetricReader({Counter: DELTA, Histogram: DELTA})
        self._provider = MeterProvider([self._reader])
        self.watcher = Metrics(self._provider.get_meter('test'))

    def metrics(self):
        """Return the metrics by name, without the prefix."""
        data = self._reader.get_metrics_data()
        if data is None:
            return {}
        return {
            metric.name.removeprefix('sqlasession.'): metric
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def counts(self):
        """Return {(name, *attribute values): how many}, of counters."""
        return {
            (name, *point.attributes.values()): point.value
            for name, metric in self.metrics().items()
            for point in metric.data.data_points
            if hasattr(point, 'value')
        }

    def close(self):
        """End it."""
        self._provider.shutdown()


@pytest.fixture
def meter():
    """A ``Meter``."""
    meter = Meter()
    yield meter
    meter.close()


@pytest.fixture
def make_counted(make_site, meter):
    """A function that makes a ``Meeting`` on a site that is counted."""

    def make(stage=None, **settings):
        settings.setdefault('additional_fields', 'user_id: Integer index')
        site = make_site(**settings)
        site.application.watcher = meter.watcher
        return Meeting(site, stage)

    return make


@on_sqlite
def test_a_request_that_stores_nothing(make_counted, meter):
    """R1: a visitor without a cookie counts nowhere."""
    counted = make_counted()
    counted.do(counted.site.browser(), acts.look)
    assert meter.counts() == {}


@pytest.mark.parametrize(
    ('act', 'kinds'),
    [
        (acts.put(a=1), ['update']),
        (acts.rotate, ['rotate']),
        (acts.logout, ['remove']),
        # One was removed, another one created.
        (acts.logout_and_say_so, ['create', 'remove']),
    ],
)
def test_loads_and_saves(make_counted, meter, act, kinds):
    """C4: a load and a save count once, with what they were; an end, too."""
    counted = make_counted()
    browser = counted.visitor()
    assert meter.counts() == {('session.saves', 'create'): 1}
    counted.do(browser, act)
    assert meter.counts() == {
        ('session.loads', 'current'): 1,
        **{('session.saves', kind): 1 for kind in kinds},
    }


@on_sqlite
def test_a_database_that_is_away(make_counted, meter):
    """D1: a look of the page that says so asks nobody, and counts nowhere."""
    counted = make_counted(
        engine_options={'poolclass': sa.NullPool},
        configure=answering(acts.look, SessionStoreUnavailable),
    )
    browser = counted.visitor()
    refuse_connections(counted.site.engine)
    meter.counts()
    assert counted.do(browser, acts.look).text == '{}'
    metrics = meter.metrics()
    (loads,) = metrics['session.loads'].data.data_points
    (durations,) = metrics['load.duration'].data.data_points
    for one in (loads, durations):
        assert list(one.attributes.values()) == ['unavailable']
    assert (loads.value, durations.count) == (1, 1)


@on_sqlite
def test_a_cookie_that_is_unknown(make_counted, meter):
    """R3: a look in vain is told from one that found a session."""
    counted = make_counted()
    browser = counted.visitor()
    counted.site.execute('DELETE FROM sessions')
    meter.counts()
    counted.do(browser, acts.look)
    assert meter.counts() == {('session.loads', 'unknown'): 1}


@on_sqlite
def test_what_is_rolled_back_is_no_save(make_counted, meter):
    """T2: what was not committed is not counted as saved."""
    counted = make_counted(configure=answering(acts.look_only, Exception))
    browser = counted.visitor()
    meter.counts()

    def fail(request):
        request.session['a'] = 1
        raise ValueError

    counted.do(browser, fail)
    assert meter.counts() == {('session.loads', 'current'): 1}


@pytest.mark.parametrize(
    ('meanwhile', 'expected'),
    [
        (acts.put(b=2), ('session.conflicts', 'merge')),
        (acts.logout, ('session.drops', 'gone')),
        (acts.rotate, ('session.drops', 'rotated')),
    ],
    ids=['merge', 'gone', 'rotated'],
)
def test_conflicts_and_drops(make_counted, meter, stage, meanwhile, expected):
    """C1, C4, C5: merges and drops are counted, drops with their reason."""
    counted = make_counted(stage)
    browser = counted.visitor()
    slow = counted.start(browser, acts.put(a=1))
    counted.do(browser, meanwhile)
    meter.counts()
    slow.finish()
    counts = meter.counts()
    assert counts[expected] == 1
    saves = [kind for name, kind in counts if name == 'session.saves']
    assert saves == (
        ['update'] if expected[0] == 'session.conflicts' else []
    )


def test_a_conflict_that_is_run_again(make_counted, meter, stage):
    """C2: with conflict = retry the refused write is counted as such."""
    counted = make_counted(stage, conflict='retry', retry=True)
    browser = counted.visitor(n=0)
    slow = counted.start(browser, acts.add_one)
    counted.do(browser, acts.add_one)
    meter.counts()
    slow.finish()
    counts = meter.counts()
    assert counts['session.conflicts', 'retry'] == 1
    assert counts['session.saves', 'update'] == 1


def test_touches_and_renewals(make_counted, meter):
    """E2: a due touch is counted, and so is a periodic new token."""
    counted = make_counted(renewal_interval='1h')
    browser = counted.visitor()
    meter.counts()
    counted.site.clock.advance(minutes=30)
    counted.do(browser, acts.look)
    counts = meter.counts()
    assert counts[('session.touches',)] == 1
    assert ('session.renewals',) not in counts
    counted.site.clock.advance(minutes=29, seconds=59)
    counted.do(browser, acts.look)
    meter.counts()
    counted.site.clock.advance(seconds=1)
    counted.do(browser, acts.look)
    counts = meter.counts()
    assert counts[('session.renewals',)] == 1
    assert ('session.touches',) not in counts


@on_sqlite
def test_a_renewal_with_a_write(make_counted, meter):
    """A new token that came with a write is counted too."""
    counted = make_counted(renewal_interval='1h')
    browser = counted.visitor()
    counted.site.clock.advance(hours=2)
    meter.counts()
    counted.do(browser, acts.put(a=1))
    assert meter.counts()[('session.renewals',)] == 1


@on_sqlite
def test_forged_cookies(make_counted, meter):
    """R3: a bad signature and a wrong secret are counted."""
    counted = make_counted(secret='seekrit')
    forger = counted.site.browser()
    forger.set_cookie('session', 'A' * 64 + '.' + 'B' * 43)
    counted.do(forger, acts.look)
    assert meter.counts() == {('cookie.forgeries', 'signature'): 1}


@on_sqlite
def test_a_wrong_secret(make_counted, meter):
    """R3: a cookie with the id of a session and another secret counts."""
    counted = make_counted()
    token = counted.site.token(counted.visitor())
    forger = counted.site.browser()
    # The last characters are of the secret.
    forger.set_cookie('session', token[:-4] + 'AAAA')
    meter.counts()
    counted.do(forger, acts.look)
    assert meter.counts() == {
        ('session.loads', 'wrong_secret'): 1,
        ('cookie.forgeries', 'secret'): 1,
    }


def test_cleaned_rows(make_counted, meter):
    """E3: the records that the cleaner deletes are counted."""
    counted = make_counted(check_expiration_interval='1h')
    for _ in range(3):
        counted.visitor()
    counted.site.clock.advance(days=2)
    meter.counts()
    assert counted.site.application.cleaner.clean() == 3
    assert meter.counts() == {('session.cleaned',): 3}


@on_sqlite
def test_durations_are_in_seconds(make_counted, meter):
    """Durations have the unit s and buckets that fit a database."""
    counted = make_counted()
    browser = counted.visitor()
    counted.site.clock.advance(minutes=5)
    counted.do(browser, acts.look)
    metrics = meter.metrics()
    durations = {
        name: metric
        for name, metric in metrics.items()
        if name.endswith('.duration')
    }
    assert set(durations) == {
        'load.duration', 'save.duration', 'touch.duration'
    }
    for metric in durations.values():
        (point,) = metric.data.data_points
        assert metric.unit == 's'
        assert 0 < point.sum < 20
        assert point.count == 1
        assert point.explicit_bounds[0] < 0.01 < 1 < point.explicit_bounds[-1]


@on_sqlite
def test_names_and_units(make_counted, meter):
    """Names have the namespace, counters a unit in braces, all a text."""
    counted = make_counted()
    browser = counted.visitor()
    counted.do(browser, acts.put(a=1))
    for name, metric in meter.metrics().items():
        assert metric.name == f'sqlasession.{name}'
        assert metric.unit in ('s', '{session}', '{cookie}', '{conflict}')
        assert metric.description.endswith('.')


def run(program):
    """Run *program* in an interpreter of its own; return what it prints."""
    return subprocess.run(
        [sys.executable, '-c', textwrap.dedent(program)], check=True,
        capture_output=True, text=True, timeout=60,
    ).stdout


APPLICATION = """
    from pyramid.config import Configurator
    from pyramid.response import Response
    from webtest import TestApp

    def view(request):
        request.session['n'] = 1
        return Response('ok')

    def serve(path):
        config = Configurator(settings={
            'sqlasession.url': f'sqlite:///{path}/sessions.sqlite',
            'sqlasession.create_table': 'true',
            'sqlasession.check_expiration_interval': '0',
        })
        config.include('pyramid_sqlasession')
        config.add_route('any', '/')
        config.add_view(view, route_name='any')
        app = config.make_wsgi_app()
        assert TestApp(app).get('/').text == 'ok'
        return app.registry['sqlasession']
"""


def test_the_provider_of_the_process_is_used(tmp_path):
    """An application need not do more than set its MeterProvider."""
    printed = run(APPLICATION + f"""
    from opentelemetry import metrics
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    reader = InMemoryMetricReader()
    application = serve({str(tmp_path)!r})
    # After the application, as agents and workers may do it.
    metrics.set_meter_provider(MeterProvider([reader]))
    serve({str(tmp_path)!r})
    (resource,) = reader.get_metrics_data().resource_metrics
    (scope,) = resource.scope_metrics
    print(scope.scope.name, sorted(m.name for m in scope.metrics))
    """)
    assert printed == (
        "pyramid_sqlasession ['sqlasession.save.duration', "
        "'sqlasession.session.saves']\n"
    )


def test_without_opentelemetry(tmp_path):
    """Without the extra nothing is counted, and nothing is missing."""
    printed = run("""
    import sys
    # As if it was not installed.
    sys.modules['opentelemetry'] = None
    sys.modules['opentelemetry.metrics'] = None
    """ + APPLICATION + f"""
    application = serve({str(tmp_path)!r})
    print(type(application.watcher).__name__)
    """)
    assert printed == 'Watcher\n'
