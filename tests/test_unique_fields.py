"""Additional fields of which no two sessions have the same value (D3, E1)."""

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.orm import Mapped
from sqlalchemy.orm import mapped_column

from pyramid_sqlasession import SessionMixin

from .failing import on_sqlite
from .fields import run
from .meeting import Meeting
from .meeting import open_snapshot
from .site import Note


@pytest.mark.parametrize('retry', [False, True], ids=['once', 'retry'])
def test_unique_field_refuses_the_second_session(make_site, retry):
    """D3: the database decides, and nothing of the second is stored."""
    site = make_site(additional_fields='seat: String(8) unique', retry=retry)
    runs = []

    def take(request):
        request.session['seat'] = '7A'

    def take_too(request):
        runs.append(1)
        request.dbsession.add(Note(text='lost'))
        request.session['seat'] = '7A'

    run(site, take)
    with pytest.raises(sa.exc.IntegrityError):
        run(site, take_too)
    # By then the view might have found that it is taken.
    assert len(runs) == (3 if retry else 1)
    assert len(site.rows()) == 1
    assert site.notes() == []


def test_unique_value_of_a_session_that_ends_is_free(make_site):
    """D3, E2: what begins with invalidate() may have the same value."""
    site = make_site(additional_fields='seat: String(8) unique')

    def sit(request):
        request.session.invalidate()
        request.session['seat'] = '7A'

    browser = run(site, sit)
    (before,) = site.rows()
    run(site, sit, browser)
    (after,) = site.rows()
    assert before['id'] != after['id']
    assert after['seat'] == '7A'


class Paired(DeclarativeBase):
    """The base of the model below."""


class Place(SessionMixin, Paired):
    """A model with a default in a pair that is unique."""

    __tablename__ = 'sessions'
    __table_args__ = (sa.UniqueConstraint('line', 'seat'),)
    line: Mapped[int | None]
    seat: Mapped[str] = mapped_column(sa.String(8), default='any')


def test_a_default_that_an_expired_session_has(make_site):
    """E1, D3: to go back to it is to take it, too."""
    site = make_site(model=Place, expiration='1h')
    run(site, lambda request: request.session.update(line=1))
    site.clock.advance(hours=2)
    browser = run(
        site, lambda request: request.session.update(line=1, seat='7A')
    )
    run(site, lambda request: request.session.pop('seat') and None, browser)
    assert [row['seat'] for row in site.rows()] == ['any']


@on_sqlite
def test_a_unique_value_that_the_extension_returns(make_site):
    """E1, D3: an expired session frees it, whatever key it follows from."""

    def extend(defaults, session, request):
        return {'seat': session.get('place')}

    site = make_site(
        additional_fields='seat: String(8) unique', expiration='1h',
        extend_default_fields=extend,
    )
    run(site, lambda request: request.session.update(place='7A'))
    site.clock.advance(hours=2)
    browser = run(site, lambda request: request.session.update(n=1))
    run(site, lambda request: request.session.update(place='7A'), browser)
    assert [row['seat'] for row in site.rows()] == ['7A']


@on_sqlite
def test_a_unique_value_of_a_session_that_is_over(make_site):
    """E1: an absolute timeout that was set later frees it as well."""

    def sit(request):
        request.session['seat'] = '7A'

    fields = {'additional_fields': 'seat: String(8) unique'}
    run(make_site(expiration='30d', **fields), sit)
    site = make_site(
        expiration='1d', absolute_timeout='1d', create=False, **fields
    )
    # To the moment.
    site.clock.advance(days=1)
    run(site, sit)
    assert len(site.rows()) == 1


@on_sqlite
def test_a_login_to_a_session_that_is_over_meanwhile(make_site, stage):
    """E1, D3: it goes on, and does not stand in its own way."""
    settings = {
        'additional_fields': 'seat: String(8) unique',
        'extend_default_fields': lambda defaults, session, request: defaults,
    }
    browser = run(
        make_site(expiration='30d', **settings),
        lambda request: request.session.update(seat='7A'),
    )
    meeting = Meeting(make_site(
        expiration='1d', absolute_timeout='1d', create=False, **settings
    ), stage)
    slow = meeting.start(
        browser, lambda request: request.session.rotate(login=True),
        before=open_snapshot,
    )
    meeting.site.clock.advance(days=1)
    slow.finish()
    assert meeting.site.data() == {'seat': '7A'}


class Seated(DeclarativeBase):
    """The base of the model below."""


class Seat(SessionMixin, Seated):
    """A model with a pair that is unique."""

    __tablename__ = 'sessions'
    __table_args__ = (sa.UniqueConstraint('line', 'seat'),)
    line: Mapped[int | None]
    seat: Mapped[str | None] = mapped_column(sa.String(8))


SEATS = {
    'unique': {'additional_fields': 'line: Integer\nseat: String(8) unique'},
    'unique index': {
        'additional_fields': 'line: Integer\nseat: String(8) unique index'
    },
    'pair': {'model': Seat},
}


@pytest.mark.parametrize('settings', SEATS.values(), ids=SEATS)
@pytest.mark.parametrize('beside_data', [False, True])
def test_unique_value_of_an_expired_session_is_free(
    make_site, settings, beside_data
):
    """E1, D3: whether or not the cleaner has been there."""
    site = make_site(expiration='1h', **settings)

    def sit(request):
        if beside_data:
            request.dbsession.scalars(sa.select(Note)).all()
        request.session.update(line=1, seat='7A')

    def come(request):
        request.session['n'] = 1

    browser = run(site, sit)
    # To the moment.
    site.clock.advance(hours=1)
    other = run(site, sit)
    assert [row['seat'] for row in site.rows()] == ['7A']
    site.clock.advance(hours=2)
    run(site, come, browser)
    run(site, sit, browser)
    assert [row['seat'] for row in site.rows()] == ['7A']
    with pytest.raises(sa.exc.IntegrityError):
        run(site, sit, other)


class Member(SessionMixin, Seated):
    """A model with names that are unique, in whichever case."""

    __tablename__ = 'members'
    club: Mapped[int | None]
    name: Mapped[str | None] = mapped_column(sa.String(8))


sa.Index(
    'by_name', Member.club.desc(), sa.func.lower(Member.name), unique=True
)


@pytest.mark.parametrize('database', ['sqlite', 'postgresql'], indirect=True)
def test_a_unique_index_over_a_function(make_site):
    """E1, D3: what an expired session has is free, as the index compares."""
    site = make_site(model=Member, expiration='1h')

    def join(name):
        return lambda request: request.session.update(club=1, name=name)

    run(site, join('Ann'))
    run(site, join('Bob'))
    site.clock.advance(hours=1)
    run(site, join('ann'))
    assert sorted(row['name'] for row in site.rows()) == ['Bob', 'ann']
    with pytest.raises(sa.exc.IntegrityError):
        run(site, join('ANN'))


@pytest.mark.parametrize('database', ['sqlite', 'postgresql'], indirect=True)
def test_a_unique_index_over_an_expression(make_site):
    """D3, E1: whose values nobody can compare deletes no other record."""
    def email(request):
        request.session['email'] = 'one@example.com'

    def email_beside_data(request):
        request.dbsession.scalars(sa.select(Note)).all()
        request.session['email'] = 'two@example.com'

    site = make_site(additional_fields='email: String(40)')
    table = site.application.records.table
    index = sa.Index('lowered', sa.text('lower(email)'), unique=True)
    table.append_constraint(index)
    try:
        site = make_site(model=site.application.model, expiration='1h')
        run(site, lambda request: request.session.update(n=1))
        site.clock.advance(hours=2)
        for view in (email, email_beside_data):
            run(site, view)
    finally:
        table.indexes.discard(index)
    assert len(site.rows()) == 3


@on_sqlite
def test_a_unique_value_that_stays_costs_nothing(make_site):
    """D4, D3: nobody is asked for it at another change."""
    site = make_site(additional_fields='seat: String(8) unique')
    browser = run(site, lambda request: request.session.update(seat='7A'))
    site.listen()
    run(site, lambda request: request.session.update(n=1), browser)
    assert site.statements.verbs == ['SELECT', 'UPDATE']


@pytest.mark.parametrize('database', ['sqlite'], indirect=True)
def test_unique_value_of_an_expired_session_with_a_damaged_id(make_site):
    """E1, D3: SQLite keeps any value as an id; such a row goes, too."""
    site = make_site(
        expiration='1h', additional_fields='seat: String(8) unique'
    )

    def sit(request):
        request.session['seat'] = '7A'

    run(site, sit)
    site.execute("UPDATE sessions SET id = 'abc'")
    site.clock.advance(hours=2)
    run(site, sit)
    assert [row['seat'] for row in site.rows()] == ['7A']


def test_unique_field_allows_many_sessions_without_it(make_site):
    """D3: NULL is no value that could be taken."""
    site = make_site(additional_fields='seat: String(8) unique')

    def other(request):
        request.session['other'] = 1

    run(site, other)
    run(site, other)
    assert [row['seat'] for row in site.rows()] == [None, None]
