"""What happens to a session when two requests of one browser meet.

A case is a function of a ``Trial`` that returns {anomaly: whether}; A has
loaded the session when B begins, and goes on when B has ended.
"""

#: What is counted, in the order of the table.
ANOMALIES = {
    'set_set': 'A sets a key, B another: one of them is lost',
    'delete_undone': 'A sets a key, B deletes another: it is back',
    'delete_loses': 'A deletes a key, B sets another: that is lost',
    'read_loses': 'A only reads, B sets a key: it is lost',
    'increments': 'A hundred requests, ten at a time, add one each: lost',
    'increment_errors': 'The same: answered with an error page',
    'flash_lost': 'A takes the flash messages, B adds one: never shown',
    'flash_twice': 'A adds a flash message, B shows those before: shown again',
    'flash_both': 'A and B add a flash message each: one is never shown',
    'logout_write': 'A writes, B logs out: logged in again',
    'logout_read': 'A only reads, B logs out: logged in again',
    'revoke_write': 'A writes, an administrator ends the session: it is back',
    'expire_write': 'A writes, the session expires: it is back',
    'clean_write': 'A writes, the session expires and is cleaned: it is back',
    'old_token': 'A writes, B logs in: the token of before opens a session',
    'landed': "A writes, B logs in: the write is in the login's session",
    'orphan': 'A writes, B logs in: a second record stays',
    'logged_out': 'A writes, B logs in: the browser is not logged in',
    'rollback': 'The transaction rolls back: the session says it did not',
    'error_page': 'Two requests that met: one is answered with an error page',
}

#: Those that are wrong without any other request, or right without one.
ALONE = {'rollback', 'landed'}

INCREMENTS, AT_A_TIME = 100, 10


def put(**values):
    """Return an act that sets these keys."""

    def act(handle):
        for key, value in values.items():
            handle.put(key, value)

    return act


def drop(handle):
    handle.drop('d')


def read(handle):
    handle.get('n')


def add_one(handle):
    handle.put('n', handle.get('n') + 1)


def flash(*messages):
    """Return an act that flashes these messages."""

    def act(handle):
        for message in messages:
            handle.flash(message)

    return act


def logout(handle):
    handle.logout()


def login(handle):
    handle.login()
    handle.put('user', 7)


# -- data ---------------------------------------------------------------------


def set_set(trial):
    trial.visit(put(n=0))
    trial.meet(put(a=1), put(b=2))
    return {'set_set': not {'a', 'b'} <= set(trial.look())}


def set_delete(trial):
    trial.visit(put(n=0, d=1))
    trial.meet(put(a=1), drop)
    return {'delete_undone': 'd' in trial.look()}


def delete_set(trial):
    trial.visit(put(n=0, d=1))
    trial.meet(drop, put(b=2))
    return {'delete_loses': 'b' not in trial.look()}


def read_set(trial):
    trial.visit(put(n=0))
    # A read that extends the expiry is the one that may write.
    trial.system.age()
    trial.meet(read, put(b=2))
    return {'read_loses': 'b' not in trial.look()}


def increments(trial):
    """Once, not many times; the number is that of the lost ones."""
    trial.visit(put(n=0))
    done = sum(
        trial.together(add_one, AT_A_TIME)
        for _ in range(INCREMENTS // AT_A_TIME)
    )
    return {
        'increments': done - trial.look()['n'],
        # Who sees one knows at least that it was not counted.
        'increment_errors': INCREMENTS - done,
    }


# -- flash messages -----------------------------------------------------------


def pop_flash(trial):
    shown = []
    trial.visit(put(n=0))
    trial.visit(flash('before'))
    trial.meet(lambda handle: shown.extend(handle.pop()), flash('B'))
    return {'flash_lost': 'B' not in shown + trial.show()}


def flash_pop(trial):
    shown = []
    trial.visit(put(n=0))
    trial.visit(flash('before'))
    trial.meet(flash('A'), lambda handle: shown.extend(handle.pop()))
    return {'flash_twice': (shown + trial.show()).count('before') > 1}


def flash_flash(trial):
    trial.visit(put(n=0))
    trial.meet(flash('A'), flash('B'))
    return {'flash_both': not {'A', 'B'} <= set(trial.show())}


# -- the end of a session -----------------------------------------------------


def _ended(trial, a, b):
    """Return whether the session that B ends is there after A."""
    trial.visit(put(n=0, user=7))
    before = dict(trial.jar)
    # A read that extends the expiry is the one that may write.
    trial.system.age()
    trial.meet(a, b)
    # By the browser's next request, or by whoever has a copy of its cookie.
    return 'user' in trial.look() or 'user' in trial.look(before)


def logout_write(trial):
    return {'logout_write': _ended(trial, put(a=1), logout)}


def logout_read(trial):
    return {'logout_read': _ended(trial, read, logout)}


def revoke_write(trial):
    return {'revoke_write': _ended(trial, put(a=1), trial.system.clear)}


def expire_write(trial):
    return {'expire_write': _ended(trial, put(a=1), trial.system.expire)}


def clean_write(trial):
    return {
        'clean_write': _ended(trial, put(a=1), trial.system.expire_and_clean)
    }


# -- login --------------------------------------------------------------------


def login_write(trial):
    if not trial.system.rotates:
        return {}
    trial.visit(put(n=0, cart='full'))
    before = dict(trial.jar)
    trial.meet(put(a=1), login)
    # First, as a look may itself store something.
    records = trial.system.count()
    after = trial.look()
    return {
        'old_token': bool(trial.look(before)),
        'landed': 'a' in after and 'user' in after,
        'orphan': records > 1,
        'logged_out': 'user' not in after,
    }


# -- the transaction ----------------------------------------------------------


def rollback(trial):
    orders = []
    trial.visit(put(n=0))
    answer = trial.visit(lambda handle: handle.checkout())
    assert answer.status == 409
    trial.visit(lambda handle: orders.append(handle.orders()))
    # Otherwise nothing has been rolled back and nothing is to be counted.
    assert orders == [0]
    return {'rollback': 'order' in trial.look()}


CASES = (
    set_set, set_delete, delete_set, read_set, pop_flash, flash_pop,
    flash_flash, logout_write, logout_read, revoke_write, expire_write,
    clean_write, login_write, rollback,
)
