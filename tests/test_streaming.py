"""A view that streams what it reads: the options of its connection are not
meant for the session's statements.
"""

import pytest
import sqlalchemy as sa

from .meeting import data_of
from .meeting import put
from .site import Note

pytestmark = pytest.mark.parametrize(
    'database',
    [
        'sqlite', 'postgresql', 'postgresql+psycopg2', 'postgresql+pg8000',
        'mariadb',
    ],
    indirect=True,
)

OPTIONS = [
    {'stream_results': True}, {'yield_per': 1},
    {'stream_results': True, 'max_row_buffer': 2},
]


def export(request, options):
    """Read the application's rows as they come."""
    connection = request.dbsession.connection(execution_options=options)
    assert list(connection.scalars(sa.select(Note.text))) == []


@pytest.mark.parametrize('options', OPTIONS, ids=str)
def test_a_view_that_streams(make_meeting, options):
    """T1, C1: it reads, changes and merges its session, and goes on so."""
    meeting = make_meeting()
    # By SQLAlchemy's way.
    meeting.site.listen()
    browser = meeting.visitor(n=0)

    def view(request):
        assert request.session['n'] == 0
        request.session['a'] = 1
        assert request.session_store.count() == 1
        assert request.session_store.revoke_where(user_id=8) == 0
        connection = request.dbsession.connection()
        assert connection.get_execution_options() == options

    slow = meeting.start(
        browser, view, before=lambda request: export(request, options)
    )
    meeting.do(browser, put(b=2))
    assert slow.finish().status_int == 200
    assert data_of(meeting) == {'n': 0, 'a': 1, 'b': 2}


@pytest.mark.parametrize('options', OPTIONS, ids=str)
def test_a_session_that_a_view_reads_as_it_streams(make_meeting, options):
    """T1: nothing is read bit by bit, and nothing is left to be read."""
    meeting = make_meeting()
    meeting.site.listen()
    browser = meeting.visitor(n=0)

    def view(request):
        export(request, options)
        request.session['n'] += 1
        return request.session['n']

    assert meeting.do(browser, view).text == '1'
    assert meeting.do(browser, view).text == '2'
