"""``request.session_store``: the sessions as an application sees them."""

import base64
import datetime as dt
import hashlib
import json
import sqlite3
import uuid

from pyramid.scripting import prepare
import pytest
import sqlalchemy as sa
import webtest

from pyramid_sqlasession import SessionError
from pyramid_sqlasession import SessionFieldError
from pyramid_sqlasession import SessionStore
from pyramid_sqlasession.errors import SessionArgumentError

from .failing import give_up_early
from .given import Given
from .naming import shown
from .site import get_dbsession
from .site import Note

ON_SQLITE = pytest.mark.parametrize('database', ['sqlite'], indirect=True)
FIELDS = 'user_id: Integer index\nnote: String(8)'


def sign_in(site, **data):
    """Return a browser whose session holds *data*."""

    @site.view
    def put(request):
        request.session.update(data)

    browser = site.browser()
    browser.get('/put')
    return browser


def run(site, function, browser=None, **kwargs):
    """Return what *function*, a view, returned, as JSON."""
    site.views['run'] = lambda request: json.dumps(function(request))
    response = (browser or site.browser()).get('/run', **kwargs)
    return json.loads(response.text)


def ids(site):
    """Return the ids in the table, oldest first, text."""
    return [str(row['id']) for row in site.rows()]


@pytest.fixture
def shop(make_site):
    """Two users: 7 has three sessions, 8 has one; oldest first."""
    site = make_site(additional_fields=FIELDS, expiration='1h')
    site.browsers = []
    for user in (7, 8, 7, 7):
        site.browsers.append(sign_in(site, user_id=user, n=len(
            site.browsers
        )))
        site.clock.advance(seconds=1)
    return site


# -- reading ------------------------------------------------------------------


@ON_SQLITE
def test_store_is_the_public_class(shop):
    """Section 3: ``request.session_store`` is a ``SessionStore``."""
    assert run(
        shop, lambda r: isinstance(r.session_store, SessionStore)
    ) is True


def test_count_is_of_live_sessions(shop):
    """E1: expired rows are not counted, cleaner or not."""
    assert run(shop, lambda r: r.session_store.count()) == 4
    shop.clock.advance(hours=1, seconds=-3)
    assert run(shop, lambda r: r.session_store.count()) == 2
    shop.clock.advance(hours=1)
    assert run(shop, lambda r: r.session_store.count()) == 0
    assert len(shop.rows()) == 4


def test_find_gives_the_newest_first(shop):
    """Section 3: the live ones, newest first."""
    expected = ids(shop)[::-1]
    assert run(
        shop, lambda r: [s.id for s in r.session_store.find()]
    ) == expected
    shop.clock.advance(hours=1, seconds=-3)
    assert run(
        shop, lambda r: [s.id for s in r.session_store.find()]
    ) == expected[:2]


@pytest.mark.parametrize('database', ['postgresql'], indirect=True)
def test_ids_that_the_driver_gives_as_texts(shop):
    """Section 3: where an application has told psycopg to."""
    from psycopg.types.string import TextLoader

    @sa.event.listens_for(shop.engine, 'connect')
    def give_texts(connection, record):
        connection.adapters.register_loader('uuid', TextLoader)

    shop.engine.dispose()
    found = ids(shop)[::-1]
    browser = shop.browsers[-1]
    assert run(
        shop, lambda r: [s.id for s in r.session_store.find()], browser
    ) == found
    assert run(
        shop, lambda r: r.session_store.revoke(r.session.id), browser
    ) == 1
    shop.clock.advance(days=1)
    assert run(shop, lambda r: r.session_store.delete_expired()) == 3


@ON_SQLITE
@pytest.mark.parametrize(
    ('fields', 'numbers'),
    [
        ({'user_id': 7}, [3, 2, 0]), ({'user_id': 8}, [1]),
        ({'user_id': 9}, []), ({'user_id': None}, []),
        ({'note': None}, [3, 2, 1, 0]),
        ({'user_id': 7, 'note': None}, [3, 2, 0]),
        ({'user_id': 7, 'note': 'x'}, []),
    ],
)
def test_find_by_fields(shop, fields, numbers):
    """Section 3: all given fields have to fit; None finds NULL."""
    assert run(
        shop, lambda r: [s.data['n'] for s in r.session_store.find(**fields)]
    ) == numbers


@ON_SQLITE
def test_record_has_what_a_list_of_devices_shows(shop):
    """Section 3: id, times, data and the fields."""
    start = shop.clock() - dt.timedelta(seconds=4)

    def look(request):
        (record,) = request.session_store.find(user_id=8)
        assert record.created == start + dt.timedelta(seconds=1)
        assert record.accessed == record.created
        assert record.expires == record.created + dt.timedelta(hours=1)
        for time in (record.created, record.accessed, record.expires):
            assert time.utcoffset() == dt.timedelta(0)
        assert record.data == {'user_id': 8, 'n': 1}
        assert (record.user_id, record.note) == (8, None)
        with pytest.raises(AttributeError, match='usr_id'):
            _ = record.usr_id
        assert isinstance(record.id, str)
        return record.id

    assert run(shop, look) == ids(shop)[1]


def test_get_returns_a_live_session(shop):
    """Section 3: by the id that ``request.session.id`` shows."""
    id = run(shop, lambda r: r.session.id, shop.browsers[0])
    assert id == ids(shop)[0]
    assert run(shop, lambda r: r.session_store.get(id).data['n']) == 0
    shop.clock.advance(hours=2)
    assert run(shop, lambda r: r.session_store.get(id)) is None


@ON_SQLITE
def test_uuid_is_an_id_too(shop):
    """Section 3: what a column of UUIDs holds needs no str()."""
    id = uuid.UUID(ids(shop)[0])
    assert run(shop, lambda r: r.session_store.get(id).id) == str(id)
    assert run(shop, lambda r: r.session_store.revoke(id)) == 1


@ON_SQLITE
@pytest.mark.parametrize(
    'id', [
        '', 'x', 'x' * 10000, '0', None, 7, b'', b'\xff', [], '\x00',
        '\ud800', "' OR 1=1 --", str(uuid.UUID(int=0)), '%', object(),
    ],
    ids=shown,
)
def test_bad_id_finds_and_ends_nothing(shop, id):
    """Section 3: an id that is none is an unknown session."""
    assert run(shop, lambda r: r.session_store.get(id)) is None
    assert run(shop, lambda r: r.session_store.revoke(id)) == 0
    assert len(shop.rows()) == 4


@ON_SQLITE
def test_token_is_no_id(shop):
    """Section 1: a cookie is of no use where an id is asked for."""
    token = shop.token(shop.browsers[0])
    assert run(shop, lambda r: r.session_store.get(token)) is None
    assert run(shop, lambda r: r.session_store.revoke(token)) == 0


@ON_SQLITE
@pytest.mark.parametrize(
    ('fields', 'words'),
    [
        ({'user_id': '7'}, 'an int'), ({'user_id': True}, 'an int'),
        ({'user_id': 7.0}, 'an int'), ({'user_id': 2**31}, '32 bits'),
        ({'user_id': [7]}, 'an int'), ({'note': 7}, 'a str'),
        ({'note': 'x' * 9}, 'at most 8'), ({'note': 'a\x00'}, 'NUL'),
        ({'usr_id': 7}, 'usr_id'), ({'id': 'x'}, "'id'"),
        ({'secret_hash': b'x' * 32}, 'secret_hash'), ({'data': '{}'}, 'data'),
    ],
    ids=shown,
)
@pytest.mark.parametrize('method', ['find', 'revoke_where'])
def test_field_that_does_not_fit_is_refused(shop, method, fields, words):
    """Section 3: a value is checked before the database converts it."""

    def ask(request):
        with pytest.raises(SessionFieldError, match=words) as caught:
            getattr(request.session_store, method)(**fields)
        ((name, value),) = fields.items()
        assert (caught.value.field, caught.value.value) == (name, value)

    run(shop, ask)
    assert len(shop.rows()) == 4


class Name(sa.types.TypeDecorator):
    """A text as it is."""

    impl = sa.String(64)
    cache_ok = True


class Lower(sa.types.TypeDecorator):
    """A text without capitals, of a type that is one itself."""

    impl = Name
    cache_ok = True

    def process_bind_param(self, value, dialect):
        return value.lower() if isinstance(value, str) else value


class Number(sa.types.TypeDecorator):
    """A number as it is."""

    impl = sa.Integer
    cache_ok = True


@pytest.mark.parametrize(
    ('kind', 'value', 'words'),
    [
        (Name, 0, 'makes a str of'), (Name, 7, 'makes a str of'),
        (Lower, 0, 'makes a str of'), (Number, '7b', 'makes an int of'),
        (Number, 'ada', 'makes an int of'),
    ],
    ids=shown,
)
def test_a_text_is_no_number_for_a_type_of_the_application(
    make_site, kind, value, words
):
    """Section 3, D3: for MariaDB 'ada' is equal to 0, and '7b' to 7."""
    site = make_site(additional_fields=f'user: {__name__}.{kind.__name__}')
    users = (0, 7) if kind is Number else ('ada', '7b')
    for user in users:
        sign_in(site, user=user)

    def ask(request):
        for method in ('find', 'revoke_where'):
            with pytest.raises(SessionFieldError, match=words):
                getattr(request.session_store, method)(user=value)
        return [one.user for one in request.session_store.find(user=users[0])]

    assert run(site, ask) == [users[0]]
    assert len(site.rows()) == 2
    with pytest.raises(SessionFieldError, match=words):
        sign_in(site, user=value)


@ON_SQLITE
def test_field_that_is_not_null_can_be_asked_for_none(make_site):
    """Section 3: asking is no storing; there is simply no such session."""
    site = make_site(additional_fields='user_id: Integer not null')
    sign_in(site, user_id=7)
    assert run(site, lambda r: r.session_store.find(user_id=None)) == []
    assert run(
        site, lambda r: r.session_store.revoke_where(user_id=None)
    ) == 0


TYPED = {
    'Boolean': False,
    'Numeric(10, 2)': 3,
    'Float': 2,
    'Date': dt.date(2026, 11, 23),
    'DateTime': dt.datetime(2026, 11, 23, 12, 0, 1),
    'Uuid': uuid.UUID(int=5),
    'LargeBinary(16)': bytes(range(16)),
    'Enum("a", "b", name="kind")': 'b',
}


@pytest.mark.parametrize('declared', TYPED)
def test_find_by_fields_of_other_types(make_site, declared):
    """Section 3: what was stored in a field is found by it."""
    value = TYPED[declared]
    site = make_site(additional_fields=f'extra: {declared}')
    sign_in(site, extra=value)
    sign_in(site, other=1)
    assert run(
        site, lambda r: len(r.session_store.find(extra=value))
    ) == 1
    assert run(site, lambda r: len(r.session_store.find(extra=None))) == 1


def test_find_by_a_json_field(make_site):
    """Section 3: None is found; databases differ in comparing JSON."""
    site = make_site(additional_fields='extra: JSON')
    sign_in(site, extra={'a': 1})
    sign_in(site, other=1)
    assert run(
        site,
        lambda r: [s.data for s in r.session_store.find(extra=None)],
    ) == [{'other': 1}]

    def ask(request):
        with pytest.raises(SessionFieldError, match='extra'):
            request.session_store.find(extra={'a': 1})

    run(site, ask)


def test_record_that_cannot_be_read_is_listed(shop):
    """R8: a damaged row shows with empty data and can be revoked."""
    shop.execute("UPDATE sessions SET data = '{broken' WHERE user_id = 8")
    (id,) = run(
        shop,
        lambda r: [
            s.id for s in r.session_store.find(user_id=8) if s.data == {}
        ],
    )
    assert run(shop, lambda r: len(r.session_store.find())) == 4
    assert run(shop, lambda r: r.session_store.revoke(id)) == 1


def test_create_table_beside_what_was_written(shop):
    """Section 3: where the table is there, nobody waits for itself."""
    give_up_early(shop.engine)

    def write(request):
        request.dbsession.add(Note(text='a note'))
        request.dbsession.flush()
        request.session_store.create_table()

    run(shop, write)
    assert shop.notes() == ['a note']


@ON_SQLITE
def test_create_table_in_memory_keeps_what_was_written(make_site):
    """Section 3, T1: nothing is rolled back where all is one connection."""
    engine = sa.create_engine('sqlite://', poolclass=sa.StaticPool)
    Note.metadata.create_all(engine)

    def configure(config):
        config.registry['dbsession_factory'].configure(bind=engine)
        config.add_request_method(get_dbsession, 'dbsession', reify=True)

    def write(request):
        request.dbsession.add(Note(text=request.params['text']))
        request.dbsession.flush()
        request.session_store.create_table()

    site = make_site(with_dbsession=configure, create=False)
    for text in ('a', 'b'):
        run(site, write, params={'text': text})
    with engine.connect() as connection:
        assert connection.scalars(sa.select(Note.text)).all() == ['a', 'b']
    engine.dispose()


class Shouted(sa.types.UserDefinedType):
    """A text that the database is asked for in capitals."""

    cache_ok = True

    def get_col_spec(self, **kw):
        return 'VARCHAR(20)'

    def column_expression(self, column):
        return sa.func.upper(column)


def test_a_type_with_an_expression_of_its_own(make_site):
    """Section 3: a field is what SQLAlchemy makes of its type."""
    site = make_site(additional_fields=f'word: {__name__}.Shouted')
    run(site, lambda request: request.session.update(word='abc'))
    assert run(
        site, lambda r: [one.word for one in r.session_store.find()]
    ) == ['ABC']


@ON_SQLITE
@pytest.mark.parametrize('column', ['accessed', 'created', 'data', 'version'])
def test_a_damaged_value_hides_no_other_session(shop, caplog, column):
    """R8: SQLite keeps any value in any column; the log names it."""
    shop.execute(f"UPDATE sessions SET {column} = x'00' WHERE user_id = 8")
    seen = []

    def ask(request):
        store = request.session_store
        seen.extend(store.find())
        (damaged,) = store.find(user_id=8)
        assert store.get(damaged.id).user_id == 8
        if column in ('accessed', 'created'):
            assert getattr(damaged, column) is None
        return damaged.id

    id = run(shop, ask)
    assert len(seen) == 4
    if column != 'version':
        assert f'session {id} ' in caplog.text
    misfits = {text for text in caplog.messages if 'do not fit' in text}
    assert misfits == ({
        f'session {id} has values that do not fit their columns: {column}'
    } if column in ('accessed', 'created') else set())
    assert run(shop, lambda r: r.session_store.revoke(id)) == 1


@ON_SQLITE
def test_nothing_of_a_record_works_as_a_cookie(shop, caplog):
    """Section 1: neither token nor secret nor hash, whatever is shown."""
    token = shop.token(shop.browsers[1])
    payload = base64.urlsafe_b64decode(token.partition('.')[0] + '==')
    secret = payload[16:]
    hash = hashlib.sha256(secret).digest()
    assert shop.rows()[1]['secret_hash'] == hash

    def look(request):
        (record,) = request.session_store.find(user_id=8)
        return [
            repr(record), str(record), repr(vars(record)),
            repr(record.data), repr(request.session_store),
            repr([getattr(record, n) for n in dir(record) if n[0] != '_']),
        ]

    for seen in run(shop, look):
        for word in (token, secret.hex(), hash.hex(), repr(hash)[2:-1]):
            assert word not in seen
    assert token not in caplog.text


# -- ending -------------------------------------------------------------------


def test_revoke_ends_one_session(shop):
    """Section 3: the device is logged out, the others are not."""
    id = ids(shop)[0]
    assert run(shop, lambda r: r.session_store.revoke(id)) == 1
    assert run(shop, lambda r: r.session_store.revoke(id)) == 0
    assert run(shop, lambda r: dict(r.session), shop.browsers[0]) == {}
    assert run(shop, lambda r: r.session['n'], shop.browsers[1]) == 1
    assert len(shop.rows()) == 3


def test_revoke_where_ends_the_sessions_of_a_user(shop):
    """Section 3: "log out everywhere", and how many these were."""
    assert run(shop, lambda r: r.session_store.revoke_where(user_id=7)) == 3
    (row,) = shop.rows()
    assert row['user_id'] == 8


@ON_SQLITE
def test_revoke_where_meets_a_lock(shop, monkeypatch):
    """C7, D1: the error is not about the value: 503, and it may run again."""
    dialect = shop.engine.dialect
    execute = dialect.do_execute

    def refuse(cursor, statement, *args):
        if 'DELETE FROM' in statement:
            raise sqlite3.OperationalError('database is locked')
        execute(cursor, statement, *args)

    with monkeypatch.context() as broken:
        broken.setattr(dialect, 'do_execute', refuse)
        with pytest.raises(webtest.AppError, match='503'):
            run(shop, lambda r: r.session_store.revoke_where(user_id=7))
    assert len(shop.rows()) == 4


@pytest.mark.parametrize('autoflush', [True, False])
def test_what_the_view_has_added_is_written_first(shop, autoflush):
    """T6: one order for the rows of the application and of sessions."""

    def end_others(request):
        request.dbsession.autoflush = autoflush
        request.dbsession.add(Note(text='changed'))
        request.session_store.revoke_where(user_id=7)
        request.session_store.revoke_all()

    shop.listen()
    run(shop, end_others)
    verbs = ['INSERT', 'DELETE', 'DELETE'] if autoflush else [
        'DELETE', 'DELETE', 'INSERT'
    ]
    assert [v for v in shop.statements.verbs if v in verbs] == verbs


@pytest.mark.parametrize('moment', ['before_flush', 'after_flush'])
def test_sessions_are_ended_by_a_listener_to_the_flush(shop, moment):
    """Section 3: "the password has changed", as a model notices it."""

    def change(request):
        ended = []

        @sa.event.listens_for(request.dbsession, moment)
        def end_others(*args):
            if not ended:
                ended.append(request.session_store.revoke_where(user_id=7))

        request.dbsession.add(Note(text='changed'))
        request.dbsession.flush()
        return ended[0]

    assert run(shop, change) == 3


@ON_SQLITE
def test_revoke_where_keeps_the_own_session(shop):
    """Section 3: "log out everywhere else"."""
    assert run(
        shop,
        lambda r: r.session_store.revoke_where(
            user_id=7, except_id=r.session.id
        ),
        shop.browsers[2],
    ) == 2
    assert [row['user_id'] for row in shop.rows()] == [8, 7]
    assert run(shop, lambda r: r.session['n'], shop.browsers[2]) == 2


@ON_SQLITE
def test_revoke_where_with_none_ends_those_without(shop):
    """Section 3: None is a field's value as any other."""
    sign_in(shop, n=9)
    assert run(
        shop, lambda r: r.session_store.revoke_where(user_id=None)
    ) == 1
    assert len(shop.rows()) == 4


@pytest.mark.parametrize(
    ('kwargs', 'revoked'), [({}, 4), ({'except_id': None}, 4)]
)
def test_revoke_all(shop, kwargs, revoked):
    """Section 3: everybody is logged out."""
    assert run(
        shop, lambda r: r.session_store.revoke_all(**kwargs)
    ) == revoked
    assert shop.rows() == []


@ON_SQLITE
def test_revoke_all_keeps_the_own_session(shop):
    """Section 3: everybody but the administrator."""
    assert run(
        shop, lambda r: r.session_store.revoke_all(except_id=r.session.id),
        shop.browsers[1],
    ) == 3
    (row,) = shop.rows()
    assert row['user_id'] == 8


@ON_SQLITE
@pytest.mark.parametrize('kwargs', [{}, {'except_id': None}])
def test_revoke_where_without_a_field_is_an_error(shop, kwargs):
    """Section 3: a forgotten field does not log everybody out."""

    def forget(request):
        with pytest.raises(SessionArgumentError, match='revoke_all'):
            request.session_store.revoke_where(**kwargs)

    run(shop, forget)
    assert issubclass(SessionArgumentError, SessionError)
    assert issubclass(SessionArgumentError, TypeError)
    assert len(shop.rows()) == 4


@ON_SQLITE
@pytest.mark.parametrize('id', ['', 'no-id', 'x' * 50])
def test_session_to_keep_that_is_no_id_is_an_error(shop, id):
    """Section 3: a wrong ``except_id`` must not end the own session."""

    def wrong(request):
        with pytest.raises(SessionArgumentError, match='except_id'):
            request.session_store.revoke_where(user_id=7, except_id=id)
        with pytest.raises(SessionArgumentError, match='except_id'):
            request.session_store.revoke_all(except_id=id)

    run(shop, wrong)
    assert len(shop.rows()) == 4


@ON_SQLITE
def test_expired_sessions_are_not_counted_as_revoked(shop):
    """Section 3: how many were logged out, not how many rows went."""
    shop.clock.advance(hours=1, seconds=-3)
    assert run(shop, lambda r: r.session_store.revoke_where(user_id=7)) == 2


def test_delete_expired_leaves_only_live_rows(shop):
    """Section 3: called by hand it leaves no expired row."""
    shop.clock.advance(hours=1, seconds=-3)
    assert run(shop, lambda r: r.session_store.delete_expired()) == 2
    assert len(shop.rows()) == 2


@ON_SQLITE
def test_absolute_timeout_that_is_set_later(make_site):
    """E1: what it has ended is not found; revoked, it never comes back."""
    def start(**settings):
        site = make_site(additional_fields=FIELDS, **settings)
        site.clock.time += dt.timedelta(days=3)
        return site

    limits = {'expiration': '1d', 'absolute_timeout': '2d', 'create': False}
    before = make_site(additional_fields=FIELDS, expiration='60d')
    browser = sign_in(before, user_id=7)
    other = sign_in(before, user_id=8)
    (id, _) = ids(before)
    site = start(**limits)
    assert run(site, lambda r: r.session_store.count()) == 0
    assert run(site, lambda r: len(r.session_store.find())) == 0
    assert run(site, lambda r: r.session_store.get(id) is None)
    run(site, lambda r: r.session_store.revoke_where(user_id=7))
    after = start(expiration='60d', create=False)
    for like, keys in ((browser, 0), (other, 1)):
        found = run(
            after, lambda r: len(r.session), after.browser(like=like)
        )
        assert found == keys
    assert run(site, lambda r: r.session_store.delete_expired()) == 1
    assert ids(site) == []


def test_delete_expired_keeps_nobody_from_writing(shop, stage):
    """T6: a view that has called it holds no lock on other sessions."""
    give_up_early(shop.engine)

    @shop.view
    def put(request):
        request.session.update(n=100, user_id=9)

    def clean(request):
        count = request.session_store.delete_expired()
        for browser in (shop.browsers[0], shop.browser()):
            stage.run(browser.get, '/put').result()
        return count

    assert run(shop, clean) == 0
    assert len(shop.rows()) == 5


def test_own_session_revoked(shop):
    """C4: what the same request writes does not bring it back."""

    def end(request):
        request.session['n'] = 100
        return request.session_store.revoke(request.session.id)

    with shop.events() as events:
        assert run(shop, end, shop.browsers[0]) == 1
    assert len(shop.rows()) == 3
    assert run(shop, lambda r: dict(r.session), shop.browsers[0]) == {}
    names = [type(event).__name__ for event in events]
    assert names.count('SessionWriteDropped') == 1


@ON_SQLITE
def test_own_session_revoked_after_a_read_is_not_touched(shop):
    """C4, E2: a due touch of a session that was just revoked is silent."""
    shop.clock.advance(minutes=10)

    def end(request):
        return request.session_store.revoke(request.session.id)

    assert run(shop, end, shop.browsers[0]) == 1
    assert len(shop.rows()) == 3


# -- the transaction ----------------------------------------------------------

ENDINGS = {
    'revoke': lambda store: store.revoke(store.find(user_id=8)[0].id),
    'revoke_where': lambda store: store.revoke_where(user_id=7),
    'revoke_all': lambda store: store.revoke_all(),
    'delete_expired': lambda store: store.delete_expired(),
}


def is_active(request):
    """A hook of pyramid_tm."""
    return 'test.inactive' not in request.environ


@pytest.fixture(params=['joined', 'own'])
def either(request, make_site, database):
    """A site with two live users and two expired rows, both ways (T0)."""
    own = {'url': database.url} if request.param == 'own' else {}
    hook = {'tm.activate_hook': f'{__name__}.is_active'}
    site = make_site(
        additional_fields=FIELDS, expiration='1h', **own, **hook
    )
    sign_in(site, user_id=9)
    sign_in(site, user_id=9)
    site.clock.advance(hours=3)
    site.browsers = [sign_in(site, user_id=7), sign_in(site, user_id=8)]
    return site


@pytest.mark.parametrize('end', ENDINGS.values(), ids=ENDINGS)
def test_store_commits_with_the_request(either, end):
    """Section 3, T1: nothing more than the view's return is needed."""
    before = len(either.rows())
    ended = run(either, lambda r: end(r.session_store))
    assert ended > 0
    assert len(either.rows()) == before - ended


@pytest.mark.parametrize(
    ('end', 'how'),
    [
        ('revoke_where', 'doom'), ('revoke_where', 'abort'),
        ('revoke_where', 'error'), ('delete_expired', 'doom'),
    ],
)
def test_store_is_rolled_back_with_the_request(either, end, how):
    """T2: an aborted request has ended nobody's session."""
    before = either.rows()

    @either.view
    def fail(request):
        assert ENDINGS[end](request.session_store) > 0
        if how == 'doom':
            request.tm.doom()
        elif how == 'abort':
            request.tm.abort()
            request.tm.begin()
        else:
            raise KeyError('fails')

    browser = either.browser()
    if how == 'error':
        with pytest.raises(KeyError, match='fails'):
            browser.get('/fail')
    else:
        browser.get('/fail')
    assert either.rows() == before


def test_store_and_application_commit_at_once(shop):
    """T1: one connection and one COMMIT for both."""
    commits = []
    sa.event.listen(shop.engine, 'commit', commits.append)

    def both(request):
        request.dbsession.add(Note(text='logged out'))
        return request.session_store.revoke_where(user_id=7)

    assert run(shop, both) == 3
    assert len(commits) == 1
    assert shop.notes() == ['logged out']


def test_store_alone_is_committed(shop):
    """T1: though zope.sqlalchemy sees no ORM object that changed."""
    assert run(shop, lambda r: r.session_store.revoke_all()) == 4
    assert shop.rows() == []


def test_failing_commit_revokes_nothing(shop):
    """T2: the application's flush fails at the end, after the revocation."""
    shop.execute("INSERT INTO notes (id, text) VALUES (1, 'taken')")

    def both(request):
        request.session_store.revoke_all()
        request.dbsession.add(Note(text='taken'))

    with pytest.raises(sa.exc.IntegrityError):
        run(shop, both)
    assert len(shop.rows()) == 4


@ON_SQLITE
def test_store_sees_its_own_work(either):
    """Section 3: within one request, before the commit."""

    def look(request):
        store = request.session_store
        before = store.count()
        store.revoke_where(user_id=7)
        return [before, store.count(), len(store.find(user_id=7))]

    assert run(either, look) == [2, 1, 0]


@pytest.mark.parametrize(
    ('end', 'way'),
    [
        ('revoke_where', 'script'), ('revoke_where', 'inactive'),
        ('delete_expired', 'script'),
    ],
)
def test_store_without_a_transaction_commits_at_once(
    either, database, end, way
):
    """T8: in a script, or with pyramid_tm off for the request."""
    before = len(either.rows())
    if way == 'script':
        with prepare(registry=either.registry) as environment:
            ended = ENDINGS[end](environment['request'].session_store)
    else:
        ended = run(
            either, lambda r: ENDINGS[end](r.session_store),
            extra_environ={'test.inactive': '1'},
        )
    assert ended > 0
    assert len(either.rows()) == before - ended


@pytest.mark.parametrize('way', ['joined', 'own'])
def test_create_table_by_the_store(make_site, database, way):
    """Section 3: from a script, twice, without harm."""
    own = {'url': database.url} if way == 'own' else {}
    site = make_site(create=False, **own)
    with prepare(registry=site.registry) as environment:
        store = environment['request'].session_store
        store.create_table()
        store.create_table()
        assert store.count() == 0
    sign_in(site, n=1)
    assert len(site.rows()) == 1


def test_store_of_a_doomed_test_transaction(shop):
    """T7: with the cookiecutter's fixtures it works on the given one."""
    given = Given(shop)
    given.manager.doom()
    browser = given.browser()
    assert run(
        shop, lambda r: r.session_store.revoke_where(user_id=7), browser
    ) == 3
    assert run(shop, lambda r: r.session_store.count(), browser) == 1
    given.abort()
    assert len(shop.rows()) == 4


def test_revoked_session_stays_gone_for_a_request_in_flight(shop, stage):
    """C4: an administrator revokes while the user's request runs."""

    @shop.view
    def slow(request):
        request.session['n'] = 100
        stage.reach('slow')

    slow_one = stage.run(shop.browsers[1].get, '/slow')
    stage.wait('slow')
    assert run(shop, lambda r: r.session_store.revoke_where(user_id=8)) == 1
    with shop.events() as events:
        stage.let('slow')
        response = slow_one.result()
    assert 'Set-Cookie' not in response.headers
    assert [row['user_id'] for row in shop.rows()] == [7, 7, 7]
    names = [type(event).__name__ for event in events]
    assert names.count('SessionWriteDropped') == 1
