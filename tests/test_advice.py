"""What the log says about what weakens an application."""

import logging

from pyramid.router import default_execution_policy
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

from pyramid_sqlasession import advice
from pyramid_sqlasession.authentication import SessionAuthenticationHelper
from pyramid_sqlasession.wiring import not_serving

from .failing import Passing

STRONG = '0123456789abcdef'
LOGIN = {'additional_fields': 'user_id: Integer index'}
#: Nothing is to be said about these.
GOOD = {'secret': STRONG, 'check_expiration_interval': '15m'}

pytestmark = pytest.mark.parametrize('database', ['sqlite'], indirect=True)


@pytest.fixture
def said(make_site, caplog):
    """A function that starts an application, and returns what was said."""
    caplog.set_level(logging.DEBUG, advice.__name__)

    def start(**settings):
        caplog.clear()
        make_site(**settings)
        return [
            (record.levelname, record.getMessage())
            for record in caplog.records if record.name == advice.__name__
        ]

    return start


def test_no_warning_for_the_defaults(said):
    """Who sets nothing is told nothing to change, only what could be set."""
    ((level, text),) = said(check_expiration_interval='15m')
    assert level == 'INFO'
    assert text.startswith('sqlasession.secret is not set')


def test_a_dbsession_of_another_name(said):
    """T0, T1: a name that was mistyped would give a second transaction."""
    ((level, text),) = said(**GOOD, dbsession='db')
    assert level == 'WARNING'
    assert text.startswith('sqlasession.dbsession = db: no request attribute')
    assert 'add_request_method' in text

    def configure(config):
        config.add_request_method(lambda request: None, 'db', reify=True)

    assert said(**GOOD, dbsession='db', configure=configure) == []


class Unknown(SQLiteDialect_pysqlite):
    """A database of which the package knows nothing."""

    name = 'unknown'
    supports_statement_cache = True


def test_another_database(said, database, monkeypatch):
    """C1, D1: where no lock is known to hold, nobody shall find out late."""
    monkeypatch.setitem(registry.impls, 'unknown', lambda: Unknown)
    url = sa.make_url(database.url).set(drivername='unknown')
    ((level, text),) = said(**GOOD, url=url.render_as_string(False))
    assert level == 'WARNING'
    assert text.startswith('the database is unknown, with which')
    assert 'sqlasession.url' in text


def test_retry_without_pyramid_retry(said):
    """C2: without it the second of two requests is answered with an error."""
    ((level, text),) = said(**GOOD, conflict='retry')
    assert level == 'WARNING'
    assert text.startswith('sqlasession.conflict = retry: ')
    assert "config.include('pyramid_retry')" in text
    assert len(text) < 250
    assert said(**GOOD, conflict='retry', retry=1) == [(level, text)]
    hook = {'retry.activate_hook': lambda request: 3}
    assert said(**GOOD, conflict='retry', retry=1, **hook) == []
    assert said(**GOOD, conflict='retry', retry=True) == []
    assert said(**GOOD, conflict='merge') == []


def test_retry_by_other_means(said):
    """C2: a policy of the application's own may run requests again."""
    def configure(config):
        config.set_execution_policy(
            lambda environ, router: default_execution_policy(environ, router)
        )

    assert said(**GOOD, conflict='retry', configure=configure) == []


def test_a_session_factory_that_was_left(said):
    """Section 1: Pyramid lets it override the one that is included."""
    ((level, text),) = said(
        **GOOD,
        configure=lambda config: config.set_session_factory(left_factory),
    )
    assert level == 'WARNING'
    assert f'({__name__}.left_factory)' in text


def left_factory(request):
    """Return the session of another package, as it were."""
    return {}


def test_a_user_field_that_is_not_there(said):
    """Section 2: a name that was mistyped would find nobody's sessions."""
    ((level, text),) = said(
        **GOOD, **LOGIN, user_field='uid', absolute_timeout='1d',
    )
    assert level == 'WARNING'
    assert text.startswith('sqlasession.user_field = uid: is no additional')


def test_silence_for_a_good_one(said):
    """Who follows the advice hears nothing any more."""
    assert said(**GOOD) == []
    assert said(
        **GOOD, **LOGIN, absolute_timeout='30d', expiration='30d',
        cookie_secure='true', cookie_name='__Host-session',
        renewal_interval='1h', renewal_grace='10m',
    ) == []


@pytest.mark.parametrize(
    ('settings', 'key', 'what'),
    [
        ({'cookie_secure': 'false'}, 'cookie_secure', 'remove the setting'),
        ({'cookie_httponly': 'false'}, 'cookie_httponly',
         'remove the setting'),
        ({'cookie_samesite': 'None', 'cookie_secure': 'true',
          'cookie_name': '__Host-x'}, 'cookie_samesite', '(Lax)'),
        ({'cookie_domain': 'example.com'}, 'cookie_domain',
         'remove the setting'),
        (LOGIN, 'absolute_timeout', 'set it, to 30d at most'),
        ({'additional_fields': 'owner: Integer', 'user_field': 'owner'},
         'absolute_timeout', "'owner'"),
        ({'expiration': '31d'}, 'expiration', '31 days'),
        ({'absolute_timeout': '400d'}, 'absolute_timeout', '400 days'),
        ({'renewal_interval': '1h', 'renewal_grace': '11m'},
         'renewal_grace', '660 seconds'),
        ({'secret': STRONG[1:]}, 'secret', 'number 1'),
        ({'secret': f'{STRONG} tiny'}, 'secret', 'number 2'),
        ({'encryption_keys': ' '}, 'encryption_keys', 'Give a key, or'),
    ],
)
def test_warnings(said, settings, key, what):
    """One line, which names the key and says what to do."""
    ((level, text),) = said(**{**GOOD, **settings})
    assert level == 'WARNING'
    assert text.startswith(f'sqlasession.{key}')
    assert what in text
    assert '\n' not in text
    assert len(text) < 250


@pytest.mark.parametrize(
    ('settings', 'words'),
    [
        ({'secret': ''}, 'sqlasession.secret is not set'),
        ({'secret': f'{STRONG} none'}, 'once all that are older'),
        ({'cookie_secure': 'true'}, '__Host-session'),
        ({'cookie_secure': 'true', 'cookie_path': '/shop'},
         '__Secure-session'),
        ({'check_expiration_interval': '0'}, 'psessions <your.ini> expire'),
    ],
)
def test_hints(said, settings, words):
    """What is no weakness is at INFO."""
    ((level, text),) = said(**{**GOOD, **settings})
    assert level == 'INFO'
    assert words in text


def test_no_secret_is_shown(said):
    """Section 1: neither a secret that is too short."""
    found = said(**{**GOOD, 'secret': 'hunter2'})
    assert 'hunter2' not in str(found)


def test_each_weakness_has_its_line(said):
    """Several are several lines."""
    found = said(
        **LOGIN, secret='a b', cookie_secure='false', cookie_httponly='false',
        expiration='100d',
    )
    assert [level for level, _ in found] == ['WARNING'] * 6 + ['INFO']


def test_a_command_hears_nothing(said):
    """``psessions`` starts the application, and does not serve it."""
    with not_serving():
        assert said(cookie_secure='false') == []
    assert said(cookie_secure='false') != []


@pytest.mark.parametrize(
    ('acts', 'expected'),
    [
        ('put login', 1), ('put login other login', 1), ('login other', 1),
        ('put rotating', 0), ('put remember', 0), ('login', 0),
        ('put login_in_two', 0), ('put failing', 0), ('login put login', 0),
        ('login leave', 0), ('put login_in_two_attempts', 0),
    ],
)
def test_a_login_that_keeps_its_token(make_site, caplog, acts, expected):
    """C5: session fixation is told of, once, whoever forgot rotate()."""
    site = make_site(**GOOD, **LOGIN, absolute_timeout='30d', retry=True)

    @site.view
    def act(request):
        session = request.session
        match request.params['act']:
            case 'put':
                session['n'] = 1
            case 'login':
                session['user_id'] = 7
            case 'other':
                session['user_id'] = 8
            case 'leave':
                session['user_id'] = None
            case 'rotating':
                session['user_id'] = 7
                session.rotate()
            case 'remember':
                SessionAuthenticationHelper().remember(request, 7)
            case 'login_in_two':
                session.rotate()
                request.tm.commit()
                request.tm.begin()
                session['user_id'] = 7
            case 'login_in_two_attempts':
                if request.environ['retry.attempt'] == 0:
                    session.rotate()
                    request.tm.commit()
                    request.tm.begin()
                    raise Passing
                session['user_id'] = 7
            case 'failing':
                session['user_id'] = 7
                request.tm.doom()

    caplog.clear()
    browser = site.browser()
    for name in acts.split():
        browser.get(f'/act?act={name}')
    said = [
        record.getMessage() for record in caplog.records
        if record.name == advice.__name__
    ]
    assert len(said) == expected
    assert all("'user_id'" in text and 'rotate()' in text for text in said)
