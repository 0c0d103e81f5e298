"""Two releases of an application on one table, as one replaces the other.

What docs/migrating.rst says to do, done as it is written there.
"""

from pathlib import Path
import re

import pytest

PAGE = Path(__file__).parents[1] / 'docs' / 'migrating.rst'


@pytest.fixture
def releases(make_site):
    """A function that makes the site of one more release, with views."""

    def make(**settings):
        site = make_site(**settings)

        @site.view
        def login(request):
            request.session.update(user_id=7, note='{"user_id": 9}')
            request.session.rotate(login=True)

        @site.view
        def put(request):
            request.session.update(request.params)

        @site.view
        def read(request):
            return sorted(request.session)

        @site.view
        def logout(request):
            request.session.invalidate()

        @site.view
        def count(request):
            return len(request.session_store.find(user_id=7))

        return site

    return make


def statements_of(database):
    """Return the SQL of the page for *database*, one statement."""
    (block,) = re.findall(
        r'\.\. code-block:: sql\n\n(    -- PostgreSQL.*?)\n\n(?=\S)',
        PAGE.read_text(), re.DOTALL,
    )
    (found,) = [
        part.partition('\n')[2] for part in block.split('\n\n')
        if database.name in part.partition('\n')[0].lower()
    ]
    return found.rstrip(';')


def test_a_new_field_is_filled_from_the_sessions(releases, database):
    """D3: those that the release before has stored are found then."""
    before = releases()
    browser, other = before.browser(), before.browser()
    for path in ('/login', '/put?other=1'):
        browser.get(path)
    other.get('/put?none=1')
    before.execute('ALTER TABLE sessions ADD user_id INTEGER')
    after = releases(create=False, additional_fields='user_id: Integer')
    asks = after.browser()
    assert asks.get('/count').text == '0'
    after.execute(statements_of(database))
    assert asks.get('/count').text == '1'
    mine = after.browser(like=browser)
    mine.get('/put?third=1')
    assert mine.get('/read').text == "['note', 'other', 'third', 'user_id']"
    assert sorted(row['user_id'] or 0 for row in after.rows()) == [0, 7]


@pytest.mark.parametrize(
    'database', ['postgresql', 'mariadb'], indirect=True
)
def test_a_table_of_another_name_beside_its_view(releases, database):
    """C1, C4: both releases write, end and find the same sessions."""
    before = releases(additional_fields='user_id: Integer')
    old = before.browser()
    old.get('/login')
    (view,) = re.findall(r"'(CREATE VIEW .*?)'", PAGE.read_text())
    before.execute('ALTER TABLE sessions RENAME TO web_sessions')
    before.execute(view)
    after = releases(
        create=False, table_name='web_sessions',
        additional_fields='user_id: Integer',
    )
    new = after.browser(like=old)
    for browser, key in ((old, 'one'), (new, 'two'), (old, 'three')):
        browser.get(f'/put?{key}=1')
    assert new.get('/read').text == (
        "['note', 'one', 'three', 'two', 'user_id']"
    )
    stranger = before.browser()
    stranger.get('/login')
    assert [new.get('/count').text, old.get('/count').text] == ['2', '2']
    old.get('/logout')
    assert new.get('/read').text == '[]'
    assert new.get('/count').text == '1'
    before.execute('DROP VIEW sessions')
    assert after.browser(like=stranger).get('/read').text == (
        "['note', 'user_id']"
    )
