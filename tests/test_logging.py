"""What is logged at which level, and that nothing of it is a credential."""

import base64
import contextlib
import itertools
import logging
import re
import traceback

from pyramid.threadlocal import get_current_request
import pytest

from pyramid_sqlasession import SessionConflict
from pyramid_sqlasession import SessionTooLarge
from pyramid_sqlasession import testing

from . import meeting as acts
from .failing import answering
from .failing import Failure
from .failing import on_sqlite
from .meeting import Meeting
from .toolbar import INCLUDES

FIELDS = 'user_id: Integer index'


class Log:
    """The records of the logger ``pyramid_sqlasession``."""

    def __init__(self, caplog):
        self._caplog = caplog
        caplog.set_level(logging.DEBUG, logger='pyramid_sqlasession')

    @contextlib.contextmanager
    def of(self):
        """Give a list of (level, message), filled when the block ends."""
        self._caplog.clear()
        seen = []
        yield seen
        seen += [
            (record.levelname, record.getMessage())
            for record in self._caplog.records
            if record.name.partition('.')[0] == 'pyramid_sqlasession'
        ]


@pytest.fixture
def log(caplog):
    """A ``Log``."""
    return Log(caplog)


def levels_of(seen, words):
    """Return the levels of the messages among *seen* with these words."""
    return [level for level, message in seen if words in message]


# -- levels ------------------------------------------------------------------


@pytest.mark.parametrize(
    ('act', 'words'),
    [
        (acts.look, ['was loaded', 'no cookie: nothing to update']),
        (acts.put(a=1), ['was loaded', 'was updated', 'no cookie']),
        (acts.rotate, ['was rotated', 'Set-Cookie: the session has a new']),
        (acts.logout, ['was removed', 'Set-Cookie: the session was invali']),
    ],
)
def test_the_usual_is_debug(site, log, act, words):
    """Load, save and the decision about the cookie are told at DEBUG."""
    meeting = Meeting(site, None)
    browser = meeting.visitor()
    with log.of() as seen:
        meeting.do(browser, act)
    assert {level for level, _ in seen} == {'DEBUG'}
    for part in words:
        assert levels_of(seen, part) == ['DEBUG']


def test_messages_name_the_session(site, log):
    """The public id is in them: a session can be followed through a log."""
    meeting = Meeting(site, None)
    browser = meeting.visitor()
    (row,) = site.rows()
    with log.of() as seen:
        meeting.do(browser, acts.put(a=1))
    assert len(levels_of(seen, str(row['id']))) == 2


@pytest.fixture(params=['plain', 'toolbar'])
def make_told(request, make_site):
    """A function that makes a ``Meeting``; with the debug toolbar, too, whose
    panel is told of each request instead, and has to pass it on.
    """

    def configure(config):
        config.include(answering(acts.look))
        if request.param == 'toolbar':
            config.include('pyramid_debugtoolbar')

    def make(stage=None, **settings):
        if request.param == 'toolbar':
            settings |= INCLUDES | {
                'debugtoolbar.panels': 'sqlasession',
                'debugtoolbar.hosts': '0.0.0.0/0',
            }
        return Meeting(make_site(configure=configure, **settings), stage)

    return make


@on_sqlite
def test_a_first_visit_in_the_log(make_told, log):
    """R1: where a session comes from can be followed."""
    told = make_told()
    with log.of() as seen:
        told.visitor()
    (row,) = told.site.rows()
    assert seen == [
        ('DEBUG', 'an empty session, the cookie is absent'),
        ('DEBUG', f'session {row["id"]} was created'),
        ('DEBUG', 'Set-Cookie: the session is new'),
    ]


@on_sqlite
@pytest.mark.parametrize(
    ('settings', 'words'),
    [
        ({}, [' was touched']),
        ({'renewal_interval': '10m'},
         [' was touched', ': the token was renewed']),
        ({'renewal_interval': '10m', 'disable_touch': 'true'},
         [': the token was renewed']),
    ],
    ids=['touch', 'both', 'renewal'],
)
def test_what_a_read_leaves_behind_in_the_log(make_told, log, settings, words):
    """R11: a touch and a renewal are told, each by its own line."""
    told = make_told(**settings)
    browser = told.visitor()
    (row,) = told.site.rows()
    told.site.clock.advance(minutes=11)
    with log.of() as seen:
        told.do(browser, acts.look)
    assert seen[1:-1] == [
        ('DEBUG', f'session {row["id"]}{part}') for part in words
    ]


@on_sqlite
@pytest.mark.parametrize('conflict', ['merge', 'retry'])
def test_two_requests_that_meet_in_the_log(make_told, log, stage, conflict):
    """C1, C2: what became of the later one's changes."""
    told = make_told(stage, conflict=conflict)
    browser = told.visitor(n=0)
    (row,) = told.site.rows()
    slow = told.start(browser, acts.put(n=1, m=1))
    told.do(browser, acts.put(n=2))
    with log.of() as seen, contextlib.suppress(SessionConflict):
        slow.finish()
    words = (
        f'session {row["id"]}: another request saved meanwhile, the changes '
        f'were merged' if conflict == 'merge' else
        'another request changed the same keys of the session (n)'
    )
    assert levels_of(seen, words) == ['DEBUG']


def only_rotate(request):
    """Change nothing else."""
    request.session.rotate()


@on_sqlite
@pytest.mark.parametrize(
    ('act', 'keys'), [(acts.put(b=1, a=1), 'a, b'), (only_rotate, 'no key')]
)
def test_what_a_request_lost_in_the_log(make_told, log, act, keys):
    """T2, T3: the keys are named, of an abort and of a view that failed."""
    told = make_told()
    browser = told.visitor()

    def fail(request):
        act(request)
        raise Failure

    def undo(request):
        act(request)
        request.tm.abort()
        request.tm.begin()

    with log.of() as seen:
        told.do(browser, fail)
    words = f'Failure, its changes of the session ({keys}) are set aside'
    assert levels_of(seen, words) == ['DEBUG']
    with log.of() as seen:
        told.do(browser, undo)
    words = f'was aborted, the changes of the session ({keys}) are taken back'
    assert levels_of(seen, words) == ['DEBUG']


def test_nothing_is_said_of_a_request_without_session(site, log):
    """A request that leaves its session alone writes no line."""
    with log.of() as seen:
        Meeting(site, None).do(site.browser(), lambda request: None)
    assert seen == []


def test_a_purge_is_info(make_site, log):
    """How many expired records were deleted is told at INFO."""
    site = make_site(check_expiration_interval='1h')
    Meeting(site, None).do(site.browser(), acts.put(a=1))
    site.clock.advance(days=2)
    with log.of() as seen:
        site.application.cleaner.clean()
    assert seen == [('INFO', '1 expired session was deleted')]


def test_a_forged_cookie_is_a_warning(make_site, log):
    """R3: a bad signature and a wrong secret are told at WARNING, once."""
    site = make_site(secret='seekrit')
    meeting = Meeting(site, None)
    forger = site.browser()
    forger.set_cookie('session', 'A' * 64 + '.' + 'B' * 43)
    with log.of() as seen:
        meeting.do(forger, acts.look)
    assert levels_of(seen, 'wrong signature') == ['WARNING']


def test_a_dropped_write_is_a_warning(site, log, stage):
    """C4: that a change was dropped is told at WARNING, with the reason."""
    meeting = Meeting(site, stage)
    browser = meeting.visitor()
    slow = meeting.start(browser, acts.put(a=1))
    meeting.do(browser, acts.logout)
    with log.of() as seen:
        slow.finish()
    (message,) = [m for level, m in seen if level == 'WARNING']
    assert 'were dropped' in message
    assert '(gone)' in message


def test_a_damaged_row_is_an_error(site, log):
    """R8: data that cannot be read are told at ERROR, with the id."""
    meeting = Meeting(site, None)
    browser = meeting.visitor()
    site.execute("UPDATE sessions SET data = 'no json at all'")
    (row,) = site.rows()
    with log.of() as seen:
        meeting.do(browser, acts.look)
    (message,) = [m for level, m in seen if level == 'ERROR']
    assert str(row['id']) in message
    assert 'no json at all' not in message


@on_sqlite
def test_who_looks_while_the_session_is_loaded(site, log, caplog):
    """R10: a filter that adds the user to each record finds a dict."""
    visitor = site.browser()
    site.view(acts.put(n=1))
    visitor.get('/act')
    site.execute("UPDATE sessions SET data = 'x'")
    # The rows of one moment are in any order.
    site.clock.advance(seconds=1)
    seen = []

    def add_user(record):
        session = get_current_request().session
        seen.append((dict(session), session.get('user_id'), session.id))
        return True

    site.view(acts.put(n=2))
    caplog.handler.addFilter(add_user)
    try:
        visitor.get('/act')
    finally:
        caplog.handler.removeFilter(add_user)
    assert seen[0] == ({}, None, None)
    assert site.application.codec.read(site.rows()[1]['data'])[0] == {'n': 2}


def test_a_late_change_is_an_error(site, log):
    """T8: a change after the response is told at ERROR, with its key."""
    meeting = Meeting(site, None)
    browser = meeting.visitor()

    def act(request):
        request.session.get('n')
        request.add_finished_callback(
            lambda request: request.session.update(too_late='unspeakable')
        )

    with log.of() as seen:
        meeting.do(browser, act)
    errors = [m for level, m in seen if level == 'ERROR']
    assert errors
    assert all('too_late' in message for message in errors)
    assert not any('unspeakable' in message for message in errors)


@pytest.mark.parametrize('database', ['sqlite'], indirect=True)
def test_a_touch_that_fails_is_a_warning(make_site, log):
    """E2: it is told at WARNING, without parameters; the page comes."""
    site = make_site(renewal_interval='1h')
    meeting = Meeting(site, None)
    browser = site.browser()
    meeting.do(browser, acts.put(letter='unspeakable'))
    site.execute(
        'CREATE TRIGGER refused BEFORE UPDATE ON sessions '
        "BEGIN SELECT RAISE(ABORT, 'no update today'); END"
    )
    site.clock.advance(hours=2)
    with log.of() as seen:
        assert 'unspeakable' in meeting.do(browser, acts.look).text
    (message,) = [m for level, m in seen if level == 'WARNING']
    assert 'no update today' in message
    assert 'unspeakable' not in message


# -- credentials -------------------------------------------------------------


class Everything:
    """All that is logged, by anybody, tracebacks with their locals too."""

    def __init__(self):
        self.texts = []
        self._handler = logging.Handler(logging.DEBUG)
        self._handler.emit = self._keep
        self._root = logging.getLogger()

    def _keep(self, record):
        self.texts.append(record.getMessage())
        if record.exc_info:
            self.keep_error(record.exc_info[1])

    def keep_error(self, error):
        """Keep a traceback as the tools show it that show locals too."""
        found = traceback.TracebackException.from_exception(
            error, capture_locals=True
        )
        # The server and its middleware hold the header that came.
        self.texts.append(
            re.sub(r"'HTTP_COOKIE': '[^']*'", '', ''.join(found.format()))
        )
        self.texts.append(repr(error))

    def __enter__(self):
        self._levels = [
            (logger, logger.level)
            for logger in map(
                logging.getLogger,
                ('', 'sqlalchemy.engine', 'sqlalchemy.pool', 'sqlalchemy.orm',
                 'pyramid_sqlasession', 'txn'),
            )
        ]
        for logger, _ in self._levels:
            logger.setLevel(logging.DEBUG)
        self._root.addHandler(self._handler)
        return self

    def __exit__(self, *error):
        self._root.removeHandler(self._handler)
        for logger, level in self._levels:
            logger.setLevel(level)

    @property
    def text(self):
        """Everything in one string."""
        return '\n'.join(self.texts)


def spellings(secret):
    """Return the ways in which bytes may show up in a text."""
    return {
        secret.hex(), secret.hex().upper(), repr(secret)[2:-1],
        base64.b64encode(secret).decode().rstrip('='),
        base64.urlsafe_b64encode(secret).decode().rstrip('='),
    }


class Witness:
    """Collects every credential that the browsers of a scenario ever had."""

    def __init__(self, site):
        self._site = site
        self.cookies = set()

    def see(self, browser):
        """Note the cookie of *browser*."""
        value = self._site.token(browser)
        if value:
            self.cookies.add(value.strip('"'))

    @property
    def spellings(self):
        """The cookies, and their secrets in every spelling."""
        found = set()
        for cookie in self.cookies:
            payload = cookie.partition('.')[0]
            raw = base64.urlsafe_b64decode(payload)
            # The id (16 bytes) is public; alone in base64 it ends in the
            # middle of a character.
            found |= {cookie, payload, payload[22:]} | spellings(raw[16:])
            found |= spellings(raw)
        return found


def fail_loudly(request):
    """Fail with everything at hand among the locals of the traceback."""
    session = request.session
    session['lost'] = 1
    binding = session._source
    base = binding.state.base
    at_hand = [  # noqa: F841
        session, base, base.token, base.record, binding.state,
        binding.state.pending, binding, binding.application,
        binding.application.settings, binding.application.cookies,
        request.session_store, request.session_store.find(),
    ]
    raise Failure


def look_at_everything(request):
    """Log what people log."""
    session = request.session
    log = logging.getLogger('application')
    state = session._source.state
    log.info('%r %s %r', state.base, state.base, state.base.record)
    log.info('%r %r %r', state, state.pending, state.snapshot())
    log.info('%r', state.base.token)
    log.info('%r', vars(session._source))
    log.info('%r', vars(session._source.application))
    log.info('%r', session._source.application.settings)
    log.info('%r', request.session_store.find())
    log.info('%r', [vars(found) for found in request.session_store.find()])
    session['seen'] = True


def store_too_much(request):
    """Fail at the commit."""
    request.session['long'] = 'x' * 5000


SCENARIO = [
    acts.put(a=1), acts.look, acts.csrf, look_at_everything, acts.rotate,
    acts.flash('hello'), acts.pop, fail_loudly, store_too_much,
    acts.look, acts.logout_and_say_so, acts.rotate, look_at_everything,
    acts.logout, acts.put(user_id=acts.USER), acts.revoke, acts.look,
]


@pytest.mark.parametrize('secret', [None, 'a-secret-to-sign-with'])
def test_no_credential_is_ever_logged(make_site, stage, secret):
    """Section 1: nothing in a log, repr or traceback works as a cookie."""
    # With SQL echo on, through a whole scenario with errors, conflicts and
    # drops; the traceback with its locals.
    settings = {} if secret is None else {'secret': secret}
    site = make_site(
        additional_fields=FIELDS, max_size='2000', renewal_interval='1h',
        configure=answering(look_at_everything, Failure),
        engine_options={'echo': 'debug'}, **settings,
    )
    meeting, witness = Meeting(site, stage), Witness(site)
    with Everything() as everything:
        browser = site.browser()
        for act in SCENARIO:
            try:
                meeting.do(browser, act)
            except SessionTooLarge as error:
                # Without our own frame, which knows the secret.
                error.__traceback__ = error.__traceback__.tb_next
                everything.keep_error(error)
            witness.see(browser)
            site.clock.advance(minutes=7)
        for meanwhile in (acts.put(b=1), acts.rotate, acts.logout):
            visitor = meeting.visitor()
            witness.see(visitor)
            slow = meeting.start(visitor, look_at_everything)
            meeting.do(visitor, meanwhile)
            witness.see(visitor)
            slow.finish()
        # A wrong secret, and a wrong signature.
        forger = site.browser()
        forger.set_cookie('session', next(iter(witness.cookies))[::-1])
        meeting.do(forger, acts.look)
        witness.see(login_past_the_page(site))
    text = everything.text
    assert len(witness.cookies) > 8
    # It did run, with the echo on.
    assert 'INSERT INTO' in text
    assert 'Traceback' in text
    found = [word for word in witness.spellings if word in text]
    assert found == []
    assert secret is None or secret not in text


def login_past_the_page(site):
    """Return a browser that was logged in by the pytest plugin."""
    browser = site.browser()
    testing.log_in(browser, user_id=acts.USER)
    return browser


@pytest.mark.parametrize('database', ['sqlite'], indirect=True)
def test_the_hash_is_only_a_parameter_of_sql(make_site):
    """The database's hash, too, is in no message of this package."""
    site = make_site(additional_fields=FIELDS)
    meeting = Meeting(site, None)
    seen = []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(record.getMessage())
    logger = logging.getLogger('pyramid_sqlasession')
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        browser = meeting.visitor()
        hashes = [row['secret_hash'] for row in site.rows()]
        for act in (acts.look, acts.rotate, acts.put(a=1)):
            meeting.do(browser, act)
            hashes += [row['secret_hash'] for row in site.rows()]
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert seen
    words = set(itertools.chain.from_iterable(map(spellings, hashes)))
    assert [word for word in words if word in '\n'.join(seen)] == []


def test_the_database_holds_nothing_that_works_as_a_cookie(site):
    """Section 1: a dump of the table has the hash, no secret."""
    meeting, witness = Meeting(site, None), Witness(site)
    browser = meeting.visitor()
    witness.see(browser)
    meeting.do(browser, acts.csrf)
    meeting.do(browser, acts.rotate)
    witness.see(browser)
    meeting.do(browser, acts.csrf)
    dump = [
        value.hex() if isinstance(value, bytes) else str(value)
        for row in site.rows()
        for value in row.values()
    ]
    raw = b''.join(
        value
        for row in site.rows()
        for value in row.values()
        if isinstance(value, bytes)
    )
    assert [w for w in witness.spellings if any(w in v for v in dump)] == []
    for cookie in witness.cookies:
        assert base64.urlsafe_b64decode(cookie)[16:] not in raw
