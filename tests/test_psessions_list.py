"""``psessions INI list``: which sessions, what of them, by which fields."""

import datetime as dt
from decimal import Decimal
import enum
import uuid

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Mapped
from sqlalchemy.orm import mapped_column

from pyramid_sqlasession import SessionMixin
from pyramid_sqlasession.model import PublicId
from pyramid_sqlasession.model import UTCDateTime

from .psessions import AT
from .psessions import Base
from .psessions import HOUR
from .psessions import NOBODY


def test_list_is_newest_first(stocked):
    """The live sessions with times, size and fields; expired ones are not."""
    stocked.new(ago=48 * HOUR)
    old = stocked.new(ago=HOUR, user_id=7)
    new = stocked.new(user_id=8, agent='Browser 1.0')
    listed = stocked.json('list')
    assert [one['id'] for one in listed] == [new, old]
    assert listed[0]['fields']['user_id'] == 8
    assert listed[0]['fields']['agent'] == 'Browser 1.0'
    assert listed[1]['fields']['agent'] is None
    assert listed[0]['bytes'] > 10
    created = dt.datetime.fromisoformat(listed[1]['created'])
    age = dt.datetime.now(dt.UTC) - created
    assert HOUR <= age < 2 * HOUR
    lines = stocked.done('list').splitlines()
    assert [line.split()[0] for line in lines] == ['id', new, old]
    assert lines[1].index('Browser') == lines[0].index('agent')


def test_list_as_a_table(plain):
    """Section 3: aligned, times to the second, long texts cut."""
    older = plain.new(agent='x' * 41)
    newer = plain.new(agent='y' * 40)
    plain.set(
        created=AT, accessed=AT + HOUR, expires=AT + 2 * HOUR, data='{}'
    )
    times = '2100-01-02 03:04:05  2100-01-02 04:04:05  2100-01-02 05:04:05'
    lines = [
        f'{newer}  {times}      2  {"y" * 40}',
        f'{older}  {times}      2  {"x" * 39}…',
    ]
    assert plain.done('list').split('\n') == [
        f'{"id":36}  {"created (UTC)":19}  {"last used":19}  {"expires":19}  '
        'bytes  agent',
        # Of one moment: by their ids.
        *sorted(lines, reverse=True),
        '',
    ]


def test_list_for_programs(plain):
    """Section 3: the same in JSON, nothing cut."""
    id = plain.new(agent='x' * 41)
    plain.set(
        created=AT, accessed=AT + HOUR, expires=AT + 2 * HOUR, data='{}'
    )
    assert plain.json('list') == [{
        'id': id, 'created': '2100-01-02T03:04:05+00:00',
        'last_used': '2100-01-02T04:04:05+00:00',
        'expires': '2100-01-02T05:04:05+00:00', 'bytes': 2,
        'fields': {'agent': 'x' * 41},
    }]


def test_list_of_nothing(stocked):
    """No sessions are a sentence, and an empty list in JSON."""
    assert stocked.done('list') == 'no live sessions\n'
    assert stocked.json('list') == []


def test_list_ends_at_the_limit(stocked):
    """--limit cuts, and stderr says that there is more."""
    for _ in range(3):
        stocked.new()
    code, out, err = stocked.run('list', '--limit', '2')
    assert code == 0
    assert len(out.splitlines()) == 3
    assert err == (
        'psessions: there are more than these 2; --limit N shows more\n'
    )
    assert len(stocked.json('list', '--limit', '3')) == 3


def test_list_of_many(in_file, monkeypatch):
    """What does not fit into the first look is printed all the same."""
    in_file.new()
    table = in_file.application.records.table
    with in_file.application.engine.begin() as connection:
        row = dict(connection.execute(sa.select(table)).one()._mapping)
        connection.execute(
            table.insert(), [{**row, 'id': uuid.uuid4()} for _ in range(1200)]
        )
    lines = in_file.done('list', '--limit', '2000').splitlines()
    assert len(lines) == 1202
    assert len({len(line.split()[0]) for line in lines[1:]}) == 1
    assert len(in_file.json('list', '--limit', '2000')) == 1201


def test_columns_of_other_names(database, make_command):
    """Contract 3: every command goes by the attributes of the model."""
    made = make_command(database.url, model=f'{__name__}.RenamedSession')
    made.done('table')
    id = made.new(ago=HOUR, tea=3)
    stats = made.json('stats')
    assert stats['created']['1d'] == stats['last_used']['1d'] == 1
    (one,) = made.json('list')
    assert one['id'] == id
    assert made.json('show', id)['data'] == {'n': 1, 'tea': 3}
    assert '1 session' in made.done('revoke', id)


class RenamedSession(SessionMixin, Base):
    """A model whose columns have other names in the database."""

    __tablename__ = 'renamed_sessions'

    data: Mapped[str] = mapped_column('payload', sa.Text, key='data')
    created: Mapped[dt.datetime] = mapped_column(
        'made', UTCDateTime, key='created'
    )
    accessed: Mapped[dt.datetime] = mapped_column(
        'used', UTCDateTime, key='accessed'
    )


def test_no_fields(tmp_path, make_command):
    """An application without additional fields has none to show."""
    made = make_command(
        f'sqlite:///{tmp_path}/plain.sqlite', model=f'{__name__}.PlainSession'
    )
    made.done('table')
    assert 'Fields' not in made.done('show', made.new())
    line = made.fails(2, 'list', '--field', 'user_id=7')
    assert 'sqlasession.additional_fields' in line


class PlainSession(SessionMixin, Base):
    """A model without fields."""

    __tablename__ = 'plain_sessions'


def test_terminal_is_not_commanded(stocked):
    """A user agent with control characters is shown with escapes."""
    stocked.new(agent='\x1b[2J\u202egnp')
    out = stocked.done('list')
    assert '\x1b' not in out
    assert '\\x1b[2J\\u202egnp' in out
    assert '\x1b' not in stocked.done('list', '--json')


@pytest.mark.parametrize('damaged', ['created', 'seen', 'id'])
def test_list_with_a_damaged_row(in_file, damaged):
    """A value that SQLite should not have taken hides no other row."""
    in_file.new()
    in_file.execute(f"UPDATE sessions SET {damaged} = 'zzz'")
    out = in_file.done('list')
    assert '(damaged)' in out
    assert len(out.splitlines()) == 2
    assert len(in_file.json('list')) == 1


# -- by a field ---------------------------------------------------------------


VALUES = [
    ('user_id', 7, '7', '8'),
    ('agent', "O'Brien=1", "O'Brien=1", "O'Brien"),
    ('agent', '', '', 'x'),
    ('admin', True, 'yes', 'false'),
    ('born', dt.date(1815, 12, 10), '1815-12-10', '1815-12-11'),
    ('seen', dt.datetime(2026, 1, 2, 3), '2026-01-02T03:00', '2026-01-02'),
    ('wakes', dt.time(6, 30), '06:30', '06:31'),
    ('device', uuid.UUID(NOBODY), NOBODY, str(uuid.UUID(int=1))),
    ('weight', 0.5, '0.5', '5e-2'),
    ('kind', 'app', 'app', 'web'),
    ('stay', dt.timedelta(minutes=90), '1h30m', '90s'),
    ('print', b'\x00\xff', '00FF', '00'),
]


def check_list_by_field(command, name, value, found, other):
    """Check that a session is listed by the text of its field alone."""
    id = command.new(**{name: value})
    command.new()
    (one,) = command.json('list', '--field', f'{name}={found}')
    assert one['id'] == id
    assert command.json('list', '--field', f'{name}={other}') == []


@pytest.mark.parametrize(
    ('name', 'value', 'found', 'other'), VALUES,
    ids=[f'{name}-{text}' for name, _, text, _ in VALUES],
)
def test_list_by_field(stocked, name, value, found, other):
    """The text of --field is converted to the type of its column."""
    check_list_by_field(stocked, name, value, found, other)


@pytest.mark.parametrize(
    ('name', 'value'),
    {name: (name, value) for name, value, *_ in VALUES}.values(),
    ids=lambda given: given if isinstance(given, str) else '',
)
def test_list_without_a_field(stocked, name, value):
    """Those in which nobody is logged in, say, with other conditions."""
    stocked.new(**{name: value})
    id = stocked.new(price=Decimal(7))
    stocked.new()
    found = stocked.json('list', '--without', name)
    assert len(found) == 2
    (one,) = stocked.json('list', '--without', name, '--field', 'price=7')
    assert one['id'] == id


def test_revoke_without_a_field(in_file, capsys):
    """The sessions of robots end, and no other ones."""
    in_file.new(admin=True)
    in_file.new()
    code, out, _ = in_file.run('revoke', '--without', 'admin')
    assert (code, out) == (0, '1 session ended\n')
    assert len(in_file.json('list')) == 1


@pytest.mark.parametrize(
    ('text', 'count'),
    [('true', 1), ('YES', 1), ('1', 1), ('False', 2), ('no', 2), ('0', 2)],
)
def test_list_by_yes_or_no(in_file, text, count):
    """A Boolean is a word or a digit, in any case of letters."""
    for admin in (True, False, False):
        in_file.new(admin=admin)
    assert len(in_file.json('list', '--field', f'admin={text}')) == count


def test_list_by_aware_time_and_decimal(stocked, database):
    """A time without a zone is UTC; a Decimal is compared as one."""
    stocked.new(price=Decimal('9.95'))
    assert len(stocked.json('list', '--field', 'price=9.95')) == 1
    if database.name == 'postgresql':
        at = dt.datetime(2026, 1, 2, 3, tzinfo=dt.UTC)
        stocked.new(seen_at=at)
        for text in ('2026-01-02T03:00', '2026-01-02T04:00+01:00'):
            assert len(stocked.json('list', '--field', f'seen_at={text}')) == 1


def test_list_by_two_fields(stocked):
    """Several --field have to be true together."""
    id = stocked.new(user_id=7, agent='a')
    stocked.new(user_id=7, agent='b')
    found = stocked.json('list', '--field', 'user_id=7', '--field', 'agent=a')
    assert [one['id'] for one in found] == [id]


class Money(sa.types.TypeDecorator):
    """Cents in the session, a text in the database."""

    impl = sa.String(20)
    cache_ok = True

    def process_bind_param(self, value, dialect):
        return None if value is None else f'{value / 100:.2f}'


class Code(sa.types.TypeDecorator):
    """A text, of which the case does not matter."""

    impl = sa.String(20)
    cache_ok = True

    def process_bind_param(self, value, dialect):
        return None if value is None else value.upper()


class Floor(sa.types.TypeDecorator):
    """A number, one less in the database."""

    impl = sa.Integer
    cache_ok = True

    def process_bind_param(self, value, dialect):
        return None if value is None else value - 1


class DecoratedSession(SessionMixin, Base):
    """A model with types that are made of others."""

    __tablename__ = 'decorated_sessions'

    seen: Mapped[dt.datetime | None] = mapped_column(UTCDateTime)
    device: Mapped[uuid.UUID | None] = mapped_column(PublicId)
    code: Mapped[str | None] = mapped_column(Code)
    price: Mapped[int | None] = mapped_column(Money)
    floor: Mapped[int | None] = mapped_column(Floor)


@pytest.fixture
def decorated(database, make_command):
    """A ``Command`` whose sessions have fields of such types."""
    made = make_command(database.url, model=f'{__name__}.DecoratedSession')
    made.done('table')
    return made


@pytest.mark.parametrize(
    ('name', 'value', 'found', 'other'),
    [
        ('seen', dt.datetime(2026, 1, 2, 3, tzinfo=dt.UTC),
         '2026-01-02T03:00', '2026-01-02T03:00+01:00'),
        ('device', uuid.UUID(NOBODY), NOBODY, str(uuid.UUID(int=1))),
        ('code', 'abc', 'Abc', 'abd'),
        ('floor', 4, '4', '3'),
    ],
)
def test_list_by_a_decorated_type(decorated, name, value, found, other):
    """Contract 3: --field is read as what the type is made of."""
    check_list_by_field(decorated, name, value, found, other)


def test_list_by_a_type_that_takes_no_text(decorated):
    """Contract 3: a wrong call, before the database is asked."""
    line = decorated.fails(2, 'list', '--field', 'price=1.00')
    assert "'price'" in line
    assert 'cannot search' in line
    line = decorated.fails(2, 'list', '--field', 'seen=yesterday')
    assert "takes a time such as 2026-11-23T12:30:00, not 'yesterday'" in line


def test_list_by_an_enum_class(tmp_path, make_command):
    """An Enum of Python is given by the name of its member."""
    made = make_command(
        f'sqlite:///{tmp_path}/own.sqlite', model=f'{__name__}.KindSession'
    )
    made.done('table')
    made.new()
    made.execute("UPDATE kind_sessions SET kind = 'APP'")
    (one,) = made.json('list', '--field', 'kind=APP')
    assert one['fields'] == {'kind': 'APP'}
    assert 'one of WEB, APP' in made.fails(2, 'list', '--field', 'kind=app')
    assert made.done('list').endswith('  APP\n')


class Kind(enum.Enum):
    """Where a session comes from."""

    WEB = 'web'
    APP = 'app'


class KindSession(SessionMixin, Base):
    """A model with a type of the application's own."""

    __tablename__ = 'kind_sessions'

    kind: Mapped[Kind | None] = mapped_column()


@pytest.mark.parametrize('database', ['postgresql'], indirect=True)
def test_list_by_what_only_the_database_reads(database, make_command):
    """An address is given as text; a wrong one is a wrong call."""
    made = make_command(database.url, model=f'{__name__}.PlaceSession')
    made.done('table')
    made.new(ip='10.1.2.3')
    (one,) = made.json('list', '--field', 'ip=10.1.2.3')
    assert one['fields'] == {'ip': '10.1.2.3'}
    assert made.json('list', '--field', 'ip=10.1.2.4') == []
    for command in ('list', 'revoke'):
        line = made.fails(2, command, '--field', 'ip=nowhere')
        assert 'nowhere' in line
        assert 'CONTEXT' not in line


class PlaceSession(SessionMixin, Base):
    """A model with a type that has no counterpart in Python."""

    __tablename__ = 'place_sessions'

    ip: Mapped[str | None] = mapped_column(postgresql.INET)


@pytest.mark.parametrize('database', ['postgresql', 'mariadb'], indirect=True)
def test_an_application_in_autocommit(database, make_command):
    """Section 3: its sessions are listed as those of any other."""
    command = make_command(
        database.url, url=database.url,
        **{'engine.isolation_level': 'AUTOCOMMIT'},
    )
    command.done('table')
    id = command.new()
    assert id in command.done('list')
