"""Judges a history against the promises.

Requests overlap, so their order is known only in part: of two requests one
was *before* the other if it had been answered when the other was sent.  A
rule here says only what holds for every order that is possible; what it
reports is a violation for certain.
"""

from collections import Counter
from collections import defaultdict
from dataclasses import dataclass
from itertools import combinations

from .plan import SHARED

#: Seconds between a commit and the answer's arrival, and of clocks.
SLACK = 0.05
_SETTING = ('set', 'buy')
_WRITING = (
    'set', 'share', 'count', 'flash', 'buy', 'arrive', 'login', 'relogin',
)


@dataclass(frozen=True)
class Violation:
    """What must not be."""

    rule: str
    session: str | None
    text: str
    #: Names of the steps that show it.
    steps: tuple[str, ...] = ()

    def __str__(self):
        where = f' of session {self.session}' if self.session else ''
        return f'{self.rule}: {self.text}{where} ({", ".join(self.steps)})'


def judge(events, sessions, bought, sold, *, grace):
    """Return the violations of a history and the tables at its end.

    :param sessions: id to data, what is in the table.
    :param bought: the names of the steps whose purchase is stored.
    :param sold: how many purchases the stock has counted.
    :param grace: for how many seconds a renewed token works.
    """
    model = Model(events, sessions, grace)
    model.check_answers()
    model.check_purchases(bought, sold)
    model.check_orphans()
    for session_id in sorted(model.ids | set(sessions)):
        story = Story(model, session_id)
        story.check_end()
        story.check_tokens()
        story.check_keys()
        story.check_shared()
        story.check_counter()
        story.check_flash()
        story.check_csrf()
    return model.violations


class Model:
    """A history, sorted by session."""

    def __init__(self, events, sessions, grace):
        self.events = sorted(events, key=lambda event: event.begun)
        self.sessions = sessions
        self.grace = grace
        self.violations = []
        self.by_id = defaultdict(list)
        self.by_token = defaultdict(list)
        #: Token to the session that it was handed out for.
        self.owner = {}
        self.ids = set()
        for event in self.events:
            self._sort(event)

    def _sort(self, event):
        self.ids.update(event.created)
        about = {event.id, *event.created, *event.ended_ids}
        if event.operation == 'revoke':
            about.add(event.target)
        for session_id in about - {None}:
            self.by_id[session_id].append(event)
        if event.sent:
            self.by_token[event.sent].append(event)
        if event.received:
            self.owner[event.received] = (event.created or [event.id])[-1]

    def report(self, rule, session, text, *events):
        """Note a violation, shown by *events*."""
        self.violations.append(
            Violation(rule, session, text, tuple(e.step for e in events))
        )

    # -- what concerns no single session -------------------------------------

    def check_answers(self):
        """Each request is answered, and no write vanishes in silence."""
        for event in self.events:
            if event.status != 200:
                text = (event.error or '').strip().splitlines() or ['?']
                self.report(
                    'no error', event.id,
                    f'{event.operation} was answered {event.status}: '
                    f'{text[-1][:300]}', event,
                )
                continue
            if (
                event.operation in _WRITING and event.id is None
                and not event.created and not event.dropped
            ):
                self.report(
                    'no silent loss', None,
                    f'{event.operation} was neither stored nor dropped',
                    event,
                )
            self._check_cookie(event)

    def _check_cookie(self, event):
        if event.dropped and event.received is not None:
            self.report(
                'no cookie', event.id, 'a dropped write sent a cookie', event
            )
        if event.created and not event.received:
            self.report(
                'no orphan', event.created[-1],
                'nobody was given the cookie', event,
            )
        if event.received and event.id is None and not event.created:
            self.report(
                'no cookie', None, 'a cookie for no session', event
            )

    def check_purchases(self, bought, sold):
        """The application's rows are what was acknowledged."""
        buys = [e for e in self.events if e.operation == 'buy']
        done = {e.step for e in buys if e.status == 200}
        unsure = {e.step for e in buys if e.status != 200}
        for step in sorted(done - bought):
            self.report('no lost row', None, f'the purchase {step} is lost')
        for step in sorted(bought - done - unsure):
            self.report('no row too many', None, f'{step} was never bought')
        if sold != len(bought):
            self.report(
                'no lost row', None,
                f'{len(bought)} purchases, but {sold} pieces sold',
            )

    def check_orphans(self):
        """Each record was handed out to somebody."""
        for session_id in sorted(set(self.sessions) - self.ids):
            self.report('no orphan', session_id, 'nobody knows the record')


class Story:
    """What happened to one session."""

    def __init__(self, model, session_id):
        self.model = model
        self.id = session_id
        self.events = model.by_id[session_id]
        #: Requests that found the session.
        self.visits = [e for e in self.events if e.id == session_id]
        #: Acknowledged writes.
        self.writes = [e for e in self.events if e.written == session_id]
        #: What it holds at the end; None if there is no record.
        self.final = model.sessions.get(session_id)

    def report(self, rule, text, *events):
        self.model.report(rule, self.id, text, *events)

    # -- the end (C4) --------------------------------------------------------

    def check_end(self):
        """What has ended stays so; what has not is there."""
        ends = [e for e in self.events if self._has_ended(e)]
        maybe = [e for e in self.events if self._may_end(e)]
        if ends:
            first = min(ends, key=lambda event: event.ended)
            for visit in self.visits:
                if first.is_before(visit):
                    self.report('no revival', 'seen again', first, visit)
            if self.final is not None:
                self.report('no revival', 'the record is there', first)
        elif not maybe and self.final is None and self.id in self.model.ids:
            self.report('no lost session', 'the record is not there')
        if len(ends) > 1:
            self.report('no revival', 'it has ended twice', *ends)

    def _has_ended(self, event):
        return self.id in event.ended_ids or (
            event.operation == 'revoke' and event.result == 1
            and event.target == self.id
        )

    def _may_end(self, event):
        return self._has_ended(event) or (
            event.operation in ('logout', 'relogin', 'revoke')
        )

    # -- tokens (C5) ---------------------------------------------------------

    def check_tokens(self):
        """Old tokens are dead, the current one is not."""
        tokens = {
            token for token, owner in self.model.owner.items()
            if owner == self.id
        }
        changes = [
            e for e in self.visits if e.has_new_token and not e.created
        ]
        logins = [
            e for e in changes if e.operation == 'login' and e.was_done
        ]
        for login in logins:
            self._check_dead(login, tokens)
        for renewal in changes:
            if renewal.operation != 'login':
                self._check_renewed(renewal)
        for token in tokens:
            self._check_alive(token, changes)

    def _check_dead(self, login, tokens):
        """After a login all tokens of before it are dead."""
        given = {
            e.received for e in self.events
            if e.received in tokens and e.begun < login.ended
        }
        for token in (given | {login.sent}) - {login.received, None}:
            for use in self.model.by_token[token]:
                if login.is_before(use) and use.id == self.id:
                    self.report('no old token', 'it was let in', login, use)
                # Whatever their order: a login of a session that has
                # ended would have been dropped.
                if self.id in use.ended_ids and use is not login:
                    self.report('no old token', 'it logged out', login, use)

    def _check_renewed(self, renewal):
        """A renewed token ends with its grace, and is not renewed again."""
        end = renewal.ended + self.model.grace + SLACK
        for use in self.model.by_token[renewal.sent]:
            if use.id != self.id or not renewal.is_before(use):
                continue
            if use.begun > end:
                self.report(
                    'no old token', 'let in after the grace', renewal, use
                )
            if use.operation != 'login' and use.received and not use.created:
                self.report(
                    'no old cookie', 'the old token got a cookie', renewal,
                    use,
                )

    def _check_alive(self, token, changes):
        """The current token opens the session."""
        logins = [
            e for e in self.events
            if e.operation == 'login' or e in changes
        ]
        for use in self.model.by_token[token]:
            if use.id == self.id or use.status != 200 or use.id is not None:
                continue
            if use.operation == 'revoke':
                continue
            over = [
                e for e in (*logins, *self.events)
                if e.begun < use.ended and e is not use
                and (self._may_end(e) or e in logins)
            ]
            if not over:
                self.report('no lost session', 'it was not found', use)

    # -- data (C1, C2) -------------------------------------------------------

    def _views(self):
        """Return (event or None, what it saw), the end of all included."""
        views = [(e, e.seen) for e in self.visits]
        if self.final is not None:
            views.append((None, self.final))
        return views

    def check_keys(self):
        """Each key that was set is there until it is deleted."""
        deletes = defaultdict(list)
        for event in self.events:
            if event.operation == 'delete':
                deletes[event.target].append(event)
        for write in self.writes:
            if write.operation in _SETTING:
                self._check_key(write, deletes[write.step])

    def _check_key(self, write, deletes):
        key = write.step
        for event, seen in self._views():
            if event is not None and not write.is_before(event):
                continue
            gone = [d for d in deletes if _may_precede(d, event)]
            if key not in seen and not gone:
                self.report('no lost key', key, write, *_some(event))
            if key in seen and seen[key] != key:
                self.report('no lost key', f'{key} has changed', write)
            for delete in deletes:
                if (
                    key in seen and delete.was_done
                    and delete.result is not None
                    and (event is None or delete.is_before(event))
                ):
                    self.report(
                        'no key back', key, delete, *_some(event)
                    )

    def check_shared(self):
        """Of a key that all set, nobody sees an overwritten value."""
        for key in SHARED:
            writes = [
                e for e in self.writes
                if e.operation == 'share' and e.target == key
            ]
            values = {e.step: e for e in writes}
            for event, seen in self._views():
                self._check_value(key, writes, values, event, seen)

    def _check_value(self, key, writes, values, event, seen):
        before = [w for w in writes if event is None or w.is_before(event)]
        found = values.get(seen.get(key))
        if found is None:
            if before and key not in seen:
                self.report('no lost key', key, before[-1], *_some(event))
            return
        for later in before:
            if found.is_before(later):
                self.report(
                    'no lost key', f'{key}: an older value came back',
                    found, later, *_some(event),
                )

    def check_counter(self):
        """Every acknowledged increment counts, once."""
        counts = [e for e in self.writes if e.operation == 'count']
        unsure = sum(
            e.operation == 'count' and e.status != 200 for e in self.visits
        )
        times = Counter(e.result for e in counts)
        for number, often in times.items():
            if often > 1:
                twice = [e for e in counts if e.result == number]
                self.report('no lost count', f'{number} was given twice',
                            *twice)
        for event, seen in self._views():
            least = sum(event is None or c.is_before(event) for c in counts)
            most = unsure + sum(
                _may_precede(c, event) for c in counts
            )
            if not least <= seen.get('n', 0) <= most:
                self.report(
                    'no lost count',
                    f'{seen.get("n", 0)} is not within {least} to {most}',
                    *_some(event),
                )

    # -- flash and CSRF (C6) -------------------------------------------------

    def check_flash(self):
        """No message is lost; it is shown once, or twice at one moment."""
        shown = defaultdict(list)
        unsure = False
        for event in self.visits:
            if event.operation == 'pop':
                unsure = unsure or event.status != 200
                if event.was_done:
                    for message in event.result:
                        shown[message].append(event)
        left = (self.final or {}).get('_f_', [])
        for message, pops in shown.items():
            for one, two in combinations(pops, 2):
                if one.is_before(two) or two.is_before(one):
                    self.report('no message twice', message, one, two)
            if message in left:
                self.report('no message twice', f'{message} is left', *pops)
        if self.final is None or unsure:
            return
        for write in self.writes:
            if write.operation == 'flash' and write.step not in (
                *left, *shown
            ):
                self.report('no lost message', write.step, write)

    def check_csrf(self):
        """Between two logins there is one CSRF token."""
        pages = [e for e in self.visits if e.operation == 'csrf']
        pages = [e for e in pages if e.was_done]
        logins = [e for e in self.events if e.operation == 'login']
        for one, two in combinations(pages, 2):
            if one.result == two.result:
                continue
            begun = min(one.begun, two.begun)
            ended = max(one.ended, two.ended)
            if not any(e.begun < ended and e.ended > begun for e in logins):
                self.report('one CSRF token', 'two differ', one, two)


def _may_precede(event, other):
    """Whether *event* may have been stored when *other* looked."""
    return other is None or event.begun < other.ended


def _some(event):
    return () if event is None else (event,)
