"""Guards of the package, to be removed: the checker has to find out.

Each function breaks the package in this process; for demonstrations only.
"""

from dataclasses import replace

import sqlalchemy as sa

from pyramid_sqlasession.records import Record
from pyramid_sqlasession.records import Records
from pyramid_sqlasession.retired import Standing
from pyramid_sqlasession.saving import Saver


def no_version_guard():
    """A write no longer asks whether another one came between."""

    def guard(self):
        # As true as can be, with the same parameters.
        return self.table.c.version - sa.bindparam('__version') < 10**9

    Records._guard = guard


def upsert():
    """A write of a record that is gone inserts it again."""
    guarded = Saver._update

    def update(self, save):
        guarded(self, save)
        dropped = save.outcome.dropped
        if any(reason == 'gone' for _, reason in dropped):
            save.outcome.dropped = ()
            plan = replace(save.plan, token=save.plan.base.token)
            self._create(replace(save, plan=plan))

    Saver._update = update


def old_tokens():
    """A token that was rotated out opens the session within its grace."""
    guarded = Record.standing

    def standing(self, token, now):
        found = guarded(self, token, now)
        return Standing.CURRENT if found is Standing.ROTATED else found

    Record.standing = standing


def logout_of_anyone():
    """A logout ends the session whichever token it has by now."""

    def delete(self, connection, id, secret_hash):
        table = self.table
        return connection.execute(
            table.delete().where(table.c.id == sa.bindparam('__id')),
            {'__id': id},
        ).rowcount == 1

    Records.delete = delete


def whole_data():
    """A conflict is answered by writing all data as this request has it."""

    def merge(self, save, found, token):
        base = self._base(found, token)
        return replace(base, content=save.plan.base.content)

    Saver._merge_onto = merge


def no_conflicts():
    """``conflict = retry`` does not look for conflicts."""
    guarded = Saver._merge_onto

    def merge(self, save, found, token):
        settings = self._settings
        self._settings = replace(settings, conflict='merge')
        try:
            return guarded(self, save, found, token)
        finally:
            self._settings = settings

    Saver._merge_onto = merge


GUARDS = {
    function.__name__.replace('_', '-'): function
    for function in (
        no_version_guard, upsert, old_tokens, logout_of_anyone, whole_data,
        no_conflicts,
    )
}
