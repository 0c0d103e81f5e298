"""Records that are damaged, and what becomes of them (R8)."""

import logging

from .visitor import Visitor


def damage(site, **values):
    """Set columns of all records."""
    table = site.application.records.table
    with site.outside.begin() as connection:
        connection.execute(table.update().values(**values))


def is_in_log(caplog):
    """Tell whether the log has an error about the session."""
    return any(
        record.levelno >= logging.ERROR
        and record.name.startswith('pyramid_sqlasession')
        for record in caplog.records
    )


def check_damaged(visitor, caplog, is_dead=False):
    """Assert R8 for the only record, and remove it.

    :param is_dead: nothing says that the cookie belongs to the record.
    """
    before = raw_rows(visitor.site)
    # A read: empty, an error in the log, the row as it was.
    content = visitor.visit(
        lambda session: (dict(session), session.new, session.id)
    )
    assert content == ({}, True, None)
    assert 'Set-Cookie' not in visitor.response.headers
    assert is_dead or is_in_log(caplog)
    visitor.site.clock.advance(minutes=2)
    visitor.visit(lambda session: session.get('a'))
    assert raw_rows(visitor.site) == before
    # A write: a new session beside it.
    other = Visitor(visitor.site)
    other.browser = visitor.site.browser(like=visitor.browser)
    other.store(b=2)
    assert other.content == {'b': 2}
    assert other.visit(lambda session: session.new) is False
    assert len(raw_rows(visitor.site)) == 2
    assert all(row in raw_rows(visitor.site) for row in before)
    # invalidate(): removed, and nothing else.
    visitor.visit(lambda session: session.invalidate())
    rows = raw_rows(visitor.site)
    if is_dead:
        assert len(rows) == 2
        return
    assert len(rows) == 1
    assert not any(row in rows for row in before)
    assert 'Max-Age=0' in visitor.response.headers['Set-Cookie']
    assert other.content == {'b': 2}


def raw_rows(site):
    """Return the records as the driver gives them, whatever is in them."""
    columns = site.application.records.table.columns.keys()
    text = f'SELECT {", ".join(columns)} FROM sessions ORDER BY id'
    with site.outside.connect() as connection:
        # Types of the driver, so that nothing is interpreted.
        rows = connection.exec_driver_sql(text)
        return [tuple(map(repr, row)) for row in rows]
