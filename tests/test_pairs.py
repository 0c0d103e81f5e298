"""Each pair of operations on one session, the first one in flight.

The first has loaded the session and stops; the second begins and commits
meanwhile; the first goes on.  One table says what comes of it, one list says
what each of its words means; both hold on every database and isolation
level.  Above READ COMMITTED PostgreSQL refuses some of the first ones, and
pyramid_retry runs them again: ``REPEATED`` has what differs then.
"""

import threading

import pytest
from webtest.response import TestResponse

from pyramid_sqlasession import SessionWriteDropped
from pyramid_sqlasession.cleaner import Cleaner

from .meeting import isolate_snapshots
from .meeting import look
from .meeting import look_only
from .meeting import Meeting
from .meeting import open_snapshot
from .meeting import reasons
from .meeting import set_cookies

TABLE = """
            | write  touch  rotate  renew  invalidate revoke  expire  clean
write       | merged merged rotated merged gone       gone    expired gone
touch       | silent silent silent  silent nothing    nothing nothing nothing
rotate      | merged merged rotated merged gone       gone    expired gone
renew       | silent renewed silent silent nothing    nothing nothing nothing
invalidate  | ended  ended  silent  ended  nothing    nothing ended   nothing
revoke      | ended  ended  ended   ended  nothing    nothing nothing nothing
expire      | new    new    new     new    new        new     new     new
clean       | silent silent silent  silent nothing    nothing nothing nothing
"""

# PostgreSQL above READ COMMITTED, if the first one's transaction has read
# before: it runs again after the second one, with a cookie that opens
# nothing any more. A rotation begins a new session then; and when the session
# has expired is known from before, whether or not its row is there.
REPEATED = {
    ('write', 'clean'): 'expired',
    ('rotate', 'rotate'): 'own',
    **{('rotate', second): 'new'
       for second in ('invalidate', 'revoke', 'clean')},
}

WORDS = {
    'merged': 'the session lives, with what both did to it',
    'rotated': "the first one's write is dropped, no cookie; only the "
               "second one's token opens the session",
    'gone': "the session is dead, the first one's write dropped, no cookie",
    'expired': 'as gone, for another reason',
    'silent': 'the session lives, as if the first one had not been',
    'renewed': 'the session lives, the first one has a new token for it',
    'nothing': 'the session is dead; the first one does and says nothing',
    'ended': 'the first one ends the session',
    'own': 'the session lives without, and the first one gets a new one',
    'new': 'the session is dead, and the first one gets a new one',
}

OPERATIONS = TABLE.split('|')[1].split()[:8]


def expected_row(first, *, repeated):
    """Return the row of the table for *first*: second to word."""
    for line in TABLE.strip().splitlines()[1:]:
        name, _, words = line.partition('|')
        if name.strip() == first:
            row = dict(zip(OPERATIONS, words.split(), strict=True))
    if repeated:
        row.update({b: w for (a, b), w in REPEATED.items() if a == first})
    return row


# -- the databases -----------------------------------------------------------

#: REPEATABLE READ as it is from MariaDB 11.6.2 on: it refuses the writes of
#: others to what has changed, but not ours.
SNAPSHOT_ISOLATION = 'SNAPSHOT ISOLATION'

#: (database, isolation level, whether the transaction has a snapshot)
MODES = [
    ('sqlite', None, True),
    ('postgresql', 'READ COMMITTED', True),
    ('postgresql', 'REPEATABLE READ', False),
    ('postgresql', 'REPEATABLE READ', True),
    ('postgresql', 'SERIALIZABLE', False),
    ('postgresql', 'SERIALIZABLE', True),
    ('mariadb', 'READ COMMITTED', True),
    ('mariadb', 'REPEATABLE READ', True),
    ('mariadb', SNAPSHOT_ISOLATION, True),
    ('galera', 'READ COMMITTED', True),
    ('galera', 'REPEATABLE READ', True),
    ('galera', SNAPSHOT_ISOLATION, True),
]


def _mode_id(mode):
    database, level, snapshot = mode
    words = [database, (level or '').lower().replace(' ', '-')]
    return '-'.join(filter(None, [*words, '' if snapshot else 'no-snapshot']))


def _refuses(mode):
    """Return whether the database refuses a write to what has changed."""
    database, level, _ = mode
    return database == 'postgresql' and level != 'READ COMMITTED'


@pytest.fixture
def pairs(make_site, stage, mode):
    """The ``Pairs`` on one database with one isolation level."""
    _, level, snapshot = mode
    if level in (None, SNAPSHOT_ISOLATION):
        options = {}
    else:
        options = {'isolation_level': level}
    settings = {
        'engine_options': options,
        'additional_fields': 'user_id: Integer index',
        # Above READ COMMITTED it is asked for (C7).
        'retry': _refuses(mode),
    }
    site = make_site(**settings)
    # The same table, seen by an application that renews tokens: only there
    # is a renewal due.
    renewing = make_site(create=False, renewal_interval='10m', **settings)
    renewing.clock = renewing.application.now = site.clock
    if level == SNAPSHOT_ISOLATION:
        isolate_snapshots(site)
        isolate_snapshots(renewing)
    return Pairs(
        site, renewing, stage, open_snapshot if snapshot else look_only
    )


# -- the operations ----------------------------------------------------------


class Pairs:
    """Makes pairs of operations meet and says what came of it."""

    def __init__(self, site, renewing, stage, before):
        self.site = site
        self.renewing = renewing
        self.stage = stage
        self.meeting = Meeting(site, stage)
        self.before = before
        self.begun = site.clock.time

    def meet(self, first, second):
        """Return the word for what comes of *first* and *second*."""
        self.site.execute('DELETE FROM sessions')
        self.site.clock.time = self.begun
        self.one = self.meeting.visitor(n=0)
        self.old = self.site.token(self.one)
        self.id = self.site.rows()[0]['id']
        # Touch and renewal are due, the session is far from its end.
        self.site.clock.advance(minutes=11)
        self.expires = self.site.rows()[0]['expires']
        if first == 'expire':
            self._expire()
        started = self._start(first)
        answer = getattr(self, f'_{second}', self._request)(second)
        self.second = self._token_of(answer)
        # Or its rows reach the other node in the middle of the first one's.
        self.site.database.settle()
        with self.site.events(SessionWriteDropped) as seen:
            with self.renewing.events(SessionWriteDropped) as seen_too:
                result = started()
        self.reasons = reasons(seen + seen_too)
        return self._judge(first, second, result)

    def _act(self, kind, name):
        """Return the view of the operation *name*; *kind* is its mark."""

        def act(request):
            if name in ('write', 'rotate', 'expire'):
                request.session[kind] = True
            if name == 'rotate':
                request.session.rotate()
            if name == 'invalidate':
                request.session.invalidate()
            if name == 'revoke':
                return request.session_store.revoke_where(user_id=7)

        return act

    def _start(self, name):
        """Start the first operation; return what lets it end."""
        if name == 'clean':
            return self._start_cleaning()
        site = self.renewing if name == 'renew' else self.site
        one = self.site.browser() if name == 'revoke' else self.one
        return self.meeting.start(
            one, self._act('first', name), before=self.before, site=site
        ).finish

    def _start_cleaning(self):
        late = self.expires
        cleaning = threading.local()
        place = f'cleaning {self.id}'

        def clean():
            cleaning.here = True
            return Cleaner(self.site.application).clean()

        def now():
            if not hasattr(cleaning, 'here'):
                return self.site.clock()
            # The cleaner finds the session expired, by its clock.
            self.stage.reach(place)
            return late

        self.site.application.now = now
        performance = self.stage.run(clean)
        self.stage.wait(place)

        def finish():
            self.stage.let(place)
            count = performance.result()
            self.site.application.now = self.site.clock
            return count

        return finish

    # -- the second one, from beginning to end

    def _request(self, name):
        return self.meeting.do(
            self.site.browser(like=self.one), self._act('second', name)
        )

    def _touch(self, name=None):
        return self.meeting.do(self.site.browser(like=self.one), look)

    def _renew(self, name):
        browser = self.renewing.browser(like=self.one)
        return self.meeting.do(browser, look, site=self.renewing)

    def _revoke(self, name):
        return self.meeting.do(
            self.site.browser(), self._act('second', name)
        )

    def _expire(self, name=None):
        self.site.clock.advance(hours=25)

    def _clean(self, name):
        self._expire()
        Cleaner(self.site.application).clean()

    # -- what came of it

    def _token_of(self, answer):
        if not isinstance(answer, TestResponse):
            return None
        return next(iter(set_cookies(answer)), None)

    def _judge(self, first, second, result):
        """Return the word of the list that fits, or a description."""
        facts = self._facts(first, second, result)
        fitting = [
            word for word in WORDS
            if getattr(self, f'_is_{word}')(facts)
        ]
        return fitting[0] if len(fitting) == 1 else f'{fitting}: {facts}'

    def _facts(self, first, second, result):
        now = self.site.clock.time
        records = [r for r in self.site.rows() if r['expires'] > now]
        cookie = None
        if isinstance(result, TestResponse):
            assert result.status_code == 200
            cookie = next(iter(set_cookies(result)), None)
        lives = [r for r in records if r['id'] == self.id]
        content = {}
        if lives:
            content = self.site.application.codec.read(lives[0]['data'])[0]
        mine = {} if not cookie else self.meeting.seen(cookie)
        return {
            'first': first, 'second': second, 'result': result,
            'lives': bool(lives), 'others': len(records) - len(lives),
            'marks': {'first', 'second'} & content.keys(),
            'cookie': cookie, 'reasons': self.reasons, 'mine': mine,
            'opened by old': 'n' in self.meeting.seen(self.old),
            'opened by second': 'n' in self.meeting.seen(self.second),
        }

    def _is_lasting(self, facts):
        """The session lives, and the second one's doing counts."""
        marks = {'second'} & facts['marks']
        return facts['lives'] and facts['others'] == 0 and marks == (
            {'second'} if facts['second'] in ('write', 'rotate') else set()
        )

    def _is_merged(self, facts):
        if not self._is_lasting(facts) or facts['reasons']:
            return False
        if 'first' not in facts['marks']:
            return False
        if facts['first'] == 'rotate':
            return (
                'n' in facts['mine'] and facts['cookie'] != self.old
                and not facts['opened by old']
                and not (self.second and facts['opened by second'])
            )
        # The old token is not sent back after a renewal.
        return facts['opened by old'] and facts['cookie'] in (
            [None] if facts['second'] == 'renew' else [None, self.old]
        )

    def _is_silent(self, facts):
        if not self._is_lasting(facts) or 'first' in facts['marks']:
            return False
        if facts['cookie'] is not None or facts['reasons']:
            return False
        if facts['second'] == 'rotate':
            return facts['opened by second'] and not facts['opened by old']
        return facts['opened by old']

    def _is_renewed(self, facts):
        return (
            self._is_lasting(facts) and not facts['reasons']
            and 'n' in facts['mine'] and facts['opened by old']
            and facts['cookie'] not in (self.old, self.second)
        )

    def _is_rotated(self, facts):
        return (
            self._is_lasting(facts) and 'first' not in facts['marks']
            and facts['reasons'] == ['rotated'] and facts['cookie'] is None
            and facts['opened by second'] and not facts['opened by old']
        )

    def _is_own(self, facts):
        return (
            facts['lives'] and facts['others'] == 1
            and facts['marks'] == {'second'} and not facts['reasons']
            and facts['mine'] == {'first': True}
            and facts['opened by second'] and not facts['opened by old']
        )

    def _is_dead(self, facts):
        return not (
            facts['lives'] or facts['opened by old']
            or facts['opened by second']
        )

    def _is_gone(self, facts):
        return self._is_dropped(facts, 'gone')

    def _is_expired(self, facts):
        return self._is_dropped(facts, 'expired')

    def _is_dropped(self, facts, reason):
        return (
            self._is_dead(facts) and facts['others'] == 0
            and facts['reasons'] == [reason] and facts['cookie'] is None
        )

    def _is_nothing(self, facts):
        return (
            self._is_dead(facts) and facts['others'] == 0
            and not facts['reasons'] and facts['cookie'] is None
            and not self._has_counted(facts)
        )

    def _has_counted(self, facts):
        return facts['first'] == 'revoke' and facts['result'].text != '0'

    def _is_ended(self, facts):
        if not self._is_dead(facts) or facts['others'] or facts['reasons']:
            return False
        if facts['first'] == 'revoke':
            return facts['result'].text == '1'
        return facts['cookie'] == ''

    def _is_new(self, facts):
        # An expired session: the second one's write is a new one as well.
        others = 1 + (
            facts['first'] == 'expire'
            and facts['second'] in ('write', 'rotate')
        )
        return (
            not facts['lives'] and not facts['opened by old']
            and facts['others'] == others and not facts['reasons']
            and facts['mine'] == {'first': True}
        )


# -- the tests ---------------------------------------------------------------


@pytest.mark.parametrize(
    ('database', 'mode'), [(mode[0], mode) for mode in MODES],
    indirect=['database'], ids=[_mode_id(mode) for mode in MODES],
)
@pytest.mark.parametrize('first', OPERATIONS)
def test_pairs(pairs, mode, first):
    """C1 to C7: what comes of *first* and each second one is in the table."""
    _, _, snapshot = mode
    expected = expected_row(first, repeated=snapshot and _refuses(mode))
    found = {second: pairs.meet(first, second) for second in OPERATIONS}
    assert found == expected


def test_the_table_is_complete():
    """The table has each pair once, and only words that are explained."""
    assert sorted(OPERATIONS) == sorted({
        'write', 'touch', 'rotate', 'renew', 'invalidate', 'revoke', 'expire',
        'clean',
    })
    for first in OPERATIONS:
        assert set(expected_row(first, repeated=True).values()) <= set(WORDS)
