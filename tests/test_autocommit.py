"""Connections that the application has in autocommit, for some requests or for
all: each statement is committed at once, and no lock outlives it.
"""

import pytest

from pyramid_sqlasession.records import Records

from .meeting import data_of
from .meeting import logout
from .meeting import look_only
from .meeting import put

AUTOCOMMIT = {'isolation_level': 'AUTOCOMMIT'}


def vacuum(request):
    """Begin as a view does for what no transaction can hold."""
    request.dbsession.connection(execution_options=AUTOCOMMIT)


def autocommit_engine(config):
    """Have all connections of ``request.dbsession`` be in autocommit."""
    make = config.registry['dbsession_factory']
    make.configure(bind=make.kw['bind'].execution_options(**AUTOCOMMIT))


#: What makes them so: settings of the meeting, and what a view begins with.
WAYS = {
    'view': ({}, vacuum),
    'option': ({'configure': autocommit_engine}, look_only),
    'engine': ({'engine_options': AUTOCOMMIT}, look_only),
}


def joined(request):
    """Have the application take part in the transaction."""
    request.dbsession.connection()


@pytest.fixture(params=WAYS)
def way(request):
    """The settings, and a view that takes part in the transaction."""
    settings, begin = WAYS[request.param]

    def before(request):
        begin(request)
        joined(request)

    return settings, before


@pytest.mark.parametrize('is_joined', [True, False])
def test_both_changes_are_kept(make_meeting, way, is_joined):
    """C1: the second one looks again, and is merged."""
    settings, before = way
    meeting = make_meeting(**settings)
    browser = meeting.visitor(n=0)
    slow = meeting.start(
        browser, put(a=1), before=before if is_joined else look_only
    )
    meeting.do(browser, put(b=2))
    assert slow.finish().status_int == 200
    assert data_of(meeting) == {'n': 0, 'a': 1, 'b': 2}


def test_a_logout_ends_the_session(make_meeting, way):
    """C4: also one whose token another request has renewed meanwhile."""
    settings, before = way
    meeting = make_meeting(
        renewal_interval='1h', renewal_grace='60s', **settings
    )
    browser = meeting.visitor()
    meeting.site.clock.advance(hours=2)
    slow = meeting.start(browser, logout, before=before)
    meeting.do(browser, put(b=2))
    assert slow.finish().status_int == 200
    assert meeting.site.rows() == []


def test_many_are_faster(make_meeting, way, monkeypatch):
    """C1: as nothing locks, it is refused as often as another is stored."""
    settings, before = way
    meeting = make_meeting(**settings)
    browser = meeting.visitor(n=0)
    others = iter(range(8))
    look_again = Records.look_again

    def look(*args):
        found = look_again(*args)
        for number in others:
            meeting.do(browser, put(b=number))
            break
        return found

    slow = meeting.start(browser, put(a=1), before=before)
    meeting.do(browser, put(b=-1))
    monkeypatch.setattr(Records, 'look_again', look)
    assert slow.finish().status_int == 200
    assert data_of(meeting) == {'n': 0, 'a': 1, 'b': 7}


def test_an_expired_rival_makes_room(make_site, way):
    """E1: the unique value of an expired session is free."""
    settings, before = way
    site = make_site(additional_fields='seat: Integer unique', **settings)

    @site.view
    def sit(request):
        before(request)
        request.session['seat'] = 7

    site.browser().get('/sit')
    site.clock.advance(days=2)
    site.browser().get('/sit')
    (row,) = site.rows()
    assert row['created'] == site.clock()
