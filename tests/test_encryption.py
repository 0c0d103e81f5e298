"""``encryption_keys``: what is at rest, and what a key is needed for."""

import base64
import builtins
import configparser
import itertools
import json
import logging
import re
import signal
import uuid

from cryptography.fernet import Fernet
from pyramid.exceptions import ConfigurationError
from pyramid.paster import get_app
from pyramid.response import Response
import pytest
import sqlalchemy as sa
from webtest import TestApp

from pyramid_sqlasession import scripts
from pyramid_sqlasession import SessionTooLarge
from pyramid_sqlasession.scripts import reencrypting
from pyramid_sqlasession.scripts.batches import REPETITIONS
from pyramid_sqlasession.scripts.progress import Progress
from pyramid_sqlasession.scripts.reencrypting import Reencryption

from .failing import on_sqlite
from .site import configurator_of_ini

OLD, NEW, OTHER = (
    base64.urlsafe_b64encode(bytes([n]) * 32).decode() for n in range(3)
)
CARD = 'a word that nobody else shall read'


@pytest.fixture
def make_bank(make_site):
    """A function that makes a site with some keys, on one database."""

    def make(*keys, **settings):
        site = make_site(
            encryption_keys=' '.join(keys), user_field='user_id',
            additional_fields='user_id: Integer index', **settings,
        )

        @site.view
        def put(request):
            request.session.update(card=CARD, user_id=7)

        @site.view
        def more(request):
            request.session['n'] = request.session.get('n', 0) + 1

        @site.view
        def read(request):
            return json.dumps(sorted(request.session.items()))

        @site.view
        def end(request):
            request.session.invalidate()

        @site.view
        def devices(request):
            found = request.session_store.find(user_id=7)
            return json.dumps([one.data for one in found])

        @site.view
        def large(request):
            request.session['x'] = 'x' * 900

        return site

    return make


@pytest.fixture
def log(caplog):
    """The errors of the package's log."""
    caplog.set_level(logging.WARNING, 'pyramid_sqlasession')

    def errors():
        return [
            record.getMessage() for record in caplog.records
            if record.levelno == logging.ERROR
        ]

    return errors


def stored(site):
    """Return a browser with a stored session."""
    browser = site.browser()
    browser.get('/put')
    return browser


def shown(browser):
    """Return what the session of *browser* holds."""
    return dict(json.loads(browser.get('/read').text))


def text_of(site):
    """Return the text in the only row."""
    (row,) = site.rows()
    return row['data']


FULL = {'card': CARD, 'user_id': 7}

# -- at rest ------------------------------------------------------------------


def test_data_at_rest_cannot_be_read(make_bank):
    """Section 2: with a key no column holds a word of the data."""
    site = make_bank(NEW)
    browser = stored(site)
    (row,) = site.rows()
    assert CARD not in repr(row)
    assert 'card' not in row['data']
    assert base64.b64encode(CARD.encode())[:20].decode() not in row['data']
    assert shown(browser) == FULL
    # Sessions are found by it.
    assert row['user_id'] == 7
    assert json.loads(browser.get('/devices').text) == [FULL]


def test_equal_data_have_different_texts(make_bank):
    """Section 2: nobody sees which sessions hold the same."""
    site = make_bank(NEW)
    stored(site)
    stored(site)
    one, two = (row['data'] for row in site.rows())
    assert one != two


def test_statements_hold_no_data(make_bank):
    """Section 2: a log of statements and values holds no data either."""
    site = make_bank(NEW)
    seen = []
    sa.event.listen(
        site.engine, 'before_cursor_execute',
        lambda *args: seen.append(repr(args[2:4])),
    )
    browser = stored(site)
    browser.get('/more')
    assert len(seen) >= 3
    assert CARD not in ''.join(seen)


def test_max_size_counts_what_is_encrypted(make_bank):
    """Section 2: the limit is one of serialized data, key or not."""
    for keys in ((), (NEW,)):
        site = make_bank(*keys, max_size='1000')
        site.browser().get('/large')
    site = make_bank(NEW, max_size='800')
    before = len(site.rows())
    with pytest.raises(SessionTooLarge):
        site.browser().get('/large')
    assert len(site.rows()) == before


# -- rotation -----------------------------------------------------------------


def test_keys_rotate(make_bank):
    """Section 2: the first key encrypts, each one decrypts."""
    browser = stored(make_bank(OLD))
    both = make_bank(NEW, OLD)
    browser = both.browser(browser)
    before = text_of(both)
    assert shown(browser) == FULL
    # A read rewrites nothing.
    assert text_of(both) == before
    browser.get('/more')
    only = make_bank(NEW)
    assert shown(only.browser(browser)) == {**FULL, 'n': 1}


def test_the_order_of_keys_decides_which_encrypts(make_bank):
    """Section 2: a new key is first added behind the old one."""
    browser = stored(make_bank(OLD, NEW))
    assert shown(make_bank(OLD).browser(browser)) == FULL


def test_plain_rows_are_read_and_encrypted_when_written(make_bank):
    """Section 2: a key can be added to sessions that are there."""
    browser = stored(make_bank())
    site = make_bank(NEW)
    assert CARD in text_of(site)
    browser = site.browser(browser)
    assert shown(browser) == FULL
    assert CARD in text_of(site)
    browser.get('/more')
    assert CARD not in text_of(site)
    assert shown(browser) == {**FULL, 'n': 1}


@pytest.mark.parametrize('keys', [
    [(), ('none', NEW), (NEW,)], [(NEW,), ('none', NEW), ()],
], ids=['first', 'last'])
def test_the_first_and_the_last_key_are_rolled_out(make_bank, log, keys):
    """R8: each process reads what one of the step before, or after, writes."""
    sites = [make_bank(*some) for some in keys]
    encrypting = sites[keys.index((NEW,))]
    browser = stored(sites[0])
    n = 0
    for one, other in itertools.pairwise(sites):
        for site in (one, other, one, other):
            n += 1
            browser = site.browser(browser)
            browser.get('/more')
            assert shown(browser) == {**FULL, 'n': n}
            assert (CARD in text_of(site)) is (site is not encrypting)
    assert not log()


# -- without the key ----------------------------------------------------------


@pytest.mark.parametrize(
    ('keys', 'words'),
    [
        ((OTHER,), 'none of sqlasession.encryption_keys decrypts it'),
        ((), 'it is encrypted; set sqlasession.encryption_keys'),
    ],
    ids=['other', 'none'],
)
def test_a_missing_key_loses_nothing(make_bank, log, keys, words):
    """R8: an error in the log, the row untouched, and back with the key."""
    browser = stored(make_bank(NEW))
    site = make_bank(*keys)
    before = site.rows()
    stranger = site.browser(browser)
    assert shown(stranger) == {}
    (line,) = log()
    assert words in line
    assert str(before[0]['id']) in line
    assert CARD not in line
    site.clock.advance(hours=1)
    stranger.get('/more')
    assert shown(stranger) == {'n': 1}
    assert [row for row in site.rows() if row['id'] == before[0]['id']] == (
        before
    )
    back = make_bank(NEW)
    assert shown(back.browser(browser)) == FULL


def test_a_missing_key_does_not_keep_a_session_alive(make_bank):
    """R8: ``invalidate()`` removes the row that cannot be read."""
    browser = stored(make_bank(NEW))
    site = make_bank(OTHER)
    site.browser(browser).get('/end')
    assert site.rows() == []


def test_a_missing_key_and_the_store(make_bank):
    """Section 3: a session that cannot be read is listed, and revoked."""
    stored(make_bank(NEW))
    site = make_bank(OTHER)
    browser = site.browser()
    assert json.loads(browser.get('/devices').text) == [{}]


@on_sqlite
@pytest.mark.parametrize(
    'tamper',
    [
        lambda text: text[:-5],
        lambda text: text.replace('fernet:', 'fernet:A'),
        lambda text: text[:30] + ('A' if text[30] != 'A' else 'B')
        + text[31:],
        lambda text: text.replace('fernet:', ''),
        lambda text: text.replace('fernet:', 'base64:'),
        lambda text: 'fernet:',
        lambda text: 'fernet:ä\x00',
        lambda text: 'fernet:' + 'A' * 100_000,
        lambda text: 'fernet:' + Fernet(OTHER).encrypt(b'{"a":1}').decode(),
        lambda text: 'fernet:' + Fernet(NEW).encrypt(b'[1]').decode(),
        lambda text: 'fernet:' + Fernet(NEW).encrypt(b'\xff').decode(),
    ],
)
def test_tampered_text(make_bank, log, tamper):
    """R8: what was changed at rest is an error in the log, never data."""
    site = make_bank(NEW)
    browser = stored(site)
    changed = tamper(text_of(site))
    site.execute('UPDATE sessions SET data = :data', data=changed)
    assert shown(browser) == {}
    assert len(log()) == 1
    assert text_of(site) == changed


@on_sqlite
def test_text_of_another_session(make_bank):
    """The key does not bind data to a row: who writes to it can move them."""
    # The docs say so: who can write to the table can log in as anybody.
    site = make_bank(NEW)
    stored(site)
    other = site.browser()
    other.get('/more')
    site.execute(
        'UPDATE sessions SET data = (SELECT data FROM sessions '
        'WHERE user_id = 7) WHERE user_id IS NULL'
    )
    assert shown(other) == FULL


# -- settings -----------------------------------------------------------------


@on_sqlite
@pytest.mark.parametrize(
    ('keys', 'number'),
    [
        ('x', 1), (f'{NEW} short', 2), (NEW[:-1], 1), ('ä' * 44, 1),
        (f'{OLD} {NEW}{NEW}', 2), (NEW.replace('=', ''), 1),
        (f'{NEW} none', 2), ('none none', 2), (f'none {NEW} {NEW[:-1]}', 3),
    ],
)
def test_what_is_no_key(make_bank, keys, number):
    """Section 2: fails at start-up, with the key's number, not the key."""
    with pytest.raises(ConfigurationError) as caught:
        make_bank(keys)
    text = str(caught.value)
    assert f'sqlasession.encryption_keys: number {number} is no' in text
    assert '32 bytes in base64url' in text
    assert 'generate_key' in text
    for word in keys.split():
        assert len(word) < 6 or word not in text


@on_sqlite
def test_none_without_a_key(make_bank):
    """Section 2: it fails at start-up, and says what is meant."""
    with pytest.raises(ConfigurationError, match='as in "none KEY"') as caught:
        make_bank('none')
    assert 'sqlasession.encryption_keys = none: ' in str(caught.value)


@on_sqlite
def test_without_the_extra(make_bank, monkeypatch):
    """Section 2: without cryptography the error says what to install."""
    imported = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.partition('.')[0] == 'cryptography':
            raise ImportError(name)
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', refuse)
    with pytest.raises(ConfigurationError) as caught:
        make_bank(NEW)
    assert 'pip install "pyramid_sqlasession[encryption]"' in str(caught.value)
    # And nobody needs it who sets no keys.
    make_bank()


# -- psessions reencrypt ------------------------------------------------------


class Vault:
    """An ini file with keys, the application that it describes, and psessions.
    """

    def __init__(self, folder, url, capsys):
        self.ini = folder / 'vault.ini'
        self._url = url
        self._capsys = capsys
        self._apps = []

    def start(self, *keys, **settings):
        """Write the keys into the file, and start an application."""
        parser = configparser.RawConfigParser()
        parser['app:main'] = {
            'use': f'call:{__name__}:vault',
            'sqlalchemy.url': self._url.replace('%', '%%'),
            'sqlasession.create_table': 'true',
            'sqlasession.check_expiration_interval': '0',
            'sqlasession.encryption_keys': ' '.join(keys),
            **settings,
        }
        with self.ini.open('w') as file:
            parser.write(file)
        self._apps.append(get_app(str(self.ini)))
        return TestApp(self._apps[-1])

    def run(self):
        """Run ``reencrypt``; return exit code, stdout and stderr."""
        self._capsys.readouterr()
        code = scripts.main([str(self.ini), 'reencrypt'])
        return (code, *self._capsys.readouterr())

    @property
    def application(self):
        return self._apps[-1].registry['sqlasession']

    def texts(self):
        """Return the texts of all rows, in the order of their making."""
        table = self.application.records.table
        with self.application.engine.connect() as connection:
            return list(connection.scalars(
                sa.select(table.c.data).order_by(table.c.id)
            ))

    def is_current(self):
        """Return for each row whether the first key encrypts it."""
        return [
            self.application.codec.is_current(text) for text in self.texts()
        ]

    def close(self):
        for app in self._apps:
            app.registry['sqlasession'].engine.dispose()


def vault(global_config, **settings):
    """The application of the ini file."""
    config = configurator_of_ini(settings)
    config.add_route('add', '/add')
    config.add_view(add, route_name='add')
    return config.make_wsgi_app()


def add(request):
    session = request.session
    session['n'] = session.get('n', 0) + 1
    return Response(str(session['n']))


@pytest.fixture
def safe(database, tmp_path, capsys):
    """A ``Vault`` on an empty database."""
    made = Vault(tmp_path, database.url, capsys)
    yield made
    made.close()


def fill(app, count):
    """Store *count* sessions; return their browsers."""
    browsers = [TestApp(app.app) for _ in range(count)]
    for browser in browsers:
        browser.get('/add')
    return browsers


def go_on(app, browsers):
    """Return what the next request of each browser counts, at *app*."""
    for browser in browsers:
        browser.app = app.app
    return [browser.get('/add').text for browser in browsers]


def test_reencrypt(safe, monkeypatch):
    """``reencrypt`` leaves nothing that an old key is needed for."""
    monkeypatch.setattr(reencrypting, 'BATCH', 3)
    browsers = fill(safe.start(), 2)
    browsers += fill(safe.start(OLD), 3)
    browsers += fill(safe.start(NEW), 3)
    safe.start(NEW, OLD)
    assert safe.is_current() == [False] * 5 + [True] * 3
    kept = safe.texts()[5:]
    assert safe.run() == (0, '5 sessions were encrypted\n', '')
    assert safe.is_current() == [True] * 8
    # What is right is not written again; nor is anything, the second time.
    assert safe.texts()[5:] == kept
    assert safe.run() == (0, '0 sessions were encrypted\n', '')
    assert go_on(safe.start(NEW), browsers) == ['2'] * 8


def test_reencrypt_with_none(safe):
    """``reencrypt`` leaves nothing that any key is needed for."""
    browsers = fill(safe.start(), 1)
    plain = safe.texts()
    browsers += fill(safe.start(OLD), 2)
    browsers += fill(safe.start(NEW), 2)
    safe.start('none', NEW, OLD)
    assert safe.is_current() == [True] + [False] * 4
    assert safe.run() == (0, '4 sessions were decrypted\n', '')
    assert safe.texts() == plain * 5
    assert safe.run() == (0, '0 sessions were decrypted\n', '')
    assert go_on(safe.start(), browsers) == ['2'] * 5


def test_reencrypt_of_nothing(safe):
    """An empty table is no error."""
    safe.start(NEW)
    assert safe.run() == (0, '0 sessions were encrypted\n', '')


@on_sqlite
def test_reencrypt_without_keys(safe):
    """Without keys it says what to set, and changes nothing."""
    fill(safe.start(), 1)
    before = safe.texts()
    code, out, err = safe.run()
    assert (code, out) == (1, '')
    assert err.startswith('psessions: sqlasession.encryption_keys is not set')
    assert 'Fernet.generate_key()' in err
    assert safe.texts() == before


def test_reencrypt_with_a_key_missing(safe):
    """R8: what no key opens stays as it is, and is named."""
    lost = fill(safe.start(OTHER), 1)
    found = fill(safe.start(OLD), 2)
    safe.start(NEW, OLD)
    before = safe.texts()[0]
    code, out, err = safe.run()
    assert (code, out) == (1, '2 sessions were encrypted\n')
    assert err.startswith('psessions: 1 session cannot be read, and stay')
    assert err.count('\n') == 1
    assert safe.texts()[0] == before
    assert safe.is_current() == [False, True, True]
    assert go_on(safe.start(NEW, OTHER), [*lost, *found]) == ['2'] * 3


@on_sqlite
@pytest.mark.parametrize(('count', 'end'), [(5, ''), (7, ' and others')])
def test_reencrypt_names_the_first_ones(safe, count, end):
    """R8: of many that no key opens five are named, and all are counted."""
    fill(safe.start(OTHER), count)
    safe.start(NEW)
    code, _, err = safe.run()
    assert code == 1
    assert err.startswith(f'psessions: {count} sessions cannot be read')
    named = err.rpartition(': ')[2].removesuffix(f'{end}\n')
    assert len({uuid.UUID(id) for id in named.split(', ')}) == 5


@on_sqlite
@pytest.mark.parametrize('data', ["'base64:!'", "'fernet:x'", "x'00'"])
def test_reencrypt_of_damaged_rows(safe, data):
    """R8: a damaged row is named, and the others are encrypted."""
    fill(safe.start(OLD), 1)
    with safe.application.engine.begin() as connection:
        connection.execute(sa.text(f'UPDATE sessions SET data = {data}'))
    fill(safe.start(OLD), 1)
    safe.start(NEW, OLD)
    code, out, err = safe.run()
    assert (code, out) == (1, '1 session was encrypted\n')
    assert '1 session cannot be read' in err


@on_sqlite
def test_reencrypt_of_damaged_ids(safe, monkeypatch):
    """R8: SQLite keeps any value as an id; such rows are encrypted, too."""
    monkeypatch.setattr(reencrypting, 'BATCH', 2)
    fill(safe.start(OLD), 5)
    with safe.application.engine.begin() as connection:
        for n, id in enumerate(("'abc'", "x'00'", '7'), 1):
            connection.execute(
                sa.text(f'UPDATE sessions SET id = {id} WHERE rowid = {n}')
            )
    fill(safe.start(OTHER), 1)
    safe.start(NEW, OLD)
    code, out, err = safe.run()
    assert (code, out) == (1, '5 sessions were encrypted\n')
    assert '1 session cannot be read' in err
    assert sorted(safe.is_current()) == [False] + [True] * 5


def test_reencrypt_keeps_what_is_written_meanwhile(safe, monkeypatch):
    """C1: a request between its look and its write loses nothing."""
    browser, _ = fill(safe.start(OLD), 2)
    old = safe.start(OLD)
    app = safe.start(NEW, OLD)
    reencrypted = Reencryption._reencrypted
    turns, sizes = [], []

    def with_a_request(self, rows):
        sizes.append(len(rows))
        new = reencrypted(self, rows)
        if len(turns) < 2:
            # First by a process that has not heard of the new key.
            turns.append(go_on((old, app)[len(turns)], [browser]))
        return new

    monkeypatch.setattr(
        Reencryption, '_reencrypted', with_a_request
    )
    assert safe.run() == (0, '1 session was encrypted\n', '')
    assert turns == [['2'], ['3']]
    # Only what was missed is read again.
    assert sizes == [2, 1, 1]
    assert safe.is_current() == [True, True]
    assert go_on(app, [browser]) == ['4']


@on_sqlite
def test_reencrypt_of_what_is_written_all_the_time(safe, monkeypatch):
    """C1: it gives up, and the session is what the requests have made it."""
    (browser,) = fill(safe.start(OLD), 1)
    old = safe.start(OLD)
    safe.start(NEW, OLD)
    reencrypted = Reencryption._reencrypted
    turns = []

    def with_a_request(self, rows):
        new = reencrypted(self, rows)
        turns.extend(go_on(old, [browser]))
        return new

    monkeypatch.setattr(Reencryption, '_reencrypted', with_a_request)
    code, out, err = safe.run()
    assert (code, out) == (1, '')
    assert re.fullmatch(
        r'psessions: session [0-9a-f-]{36} is being written all the time; '
        r'run it again\n', err
    )
    assert turns == [str(n + 2) for n in range(REPETITIONS)]
    assert safe.is_current() == [False]


def test_a_request_in_flight_survives_reencrypt(make_bank, stage, safe):
    """C1: nor does a request that began before and ends after."""
    site = make_bank(OLD)
    browser = stored(site)

    @site.view
    def slow(request):
        request.session['slow'] = len(request.session)
        stage.reach('loaded')

    request = stage.run(site.browser(browser).get, '/slow')
    stage.wait('loaded')
    safe.start(NEW, OLD)
    assert safe.run()[0] == 0
    stage.let('loaded')
    request.result()
    assert shown(browser) == {**FULL, 'slow': 2}


def test_reencrypt_does_not_revive(safe, monkeypatch):
    """C4: a session that ends between look and write stays gone."""
    fill(safe.start(OLD), 2)
    safe.start(NEW, OLD)
    reencrypted = Reencryption._reencrypted

    def with_a_revocation(self, rows):
        new = reencrypted(self, rows)
        with safe.application.engine.begin() as connection:
            connection.execute(sa.text('DELETE FROM sessions'))
        return new

    monkeypatch.setattr(
        Reencryption, '_reencrypted', with_a_revocation
    )
    assert safe.run() == (0, '0 sessions were encrypted\n', '')
    assert safe.texts() == []


def test_interrupted_reencrypt_goes_on(safe, monkeypatch):
    """It can be stopped, says how far it came, and goes on."""
    monkeypatch.setattr(reencrypting, 'BATCH', 2)
    fill(safe.start(OLD), 5)
    safe.start(NEW, OLD)
    write = Reencryption._write
    turns = []

    def stopped(self, new):
        turns.append(len(new))
        if len(turns) == 2:
            raise KeyboardInterrupt
        return write(self, new)

    with monkeypatch.context() as patch:
        patch.setattr(Reencryption, '_write', stopped)
        code, out, err = safe.run()
    assert (code, out) == (130, '')
    assert '2 were encrypted before that; run it again to go on' in err
    assert safe.is_current() == [True, True, False, False, False]
    assert safe.run() == (0, '3 sessions were encrypted\n', '')


@on_sqlite
@pytest.mark.usefixtures('heeded')
def test_ctrl_c_waits_for_the_batch_of_reencrypt(safe, monkeypatch):
    """Nothing is encrypted by half, and what was is counted."""
    monkeypatch.setattr(reencrypting, 'BATCH', 2)
    fill(safe.start(OLD), 5)
    safe.start(NEW, OLD)
    write = Reencryption._write

    def press(self, new):
        signal.raise_signal(signal.SIGINT)
        return write(self, new)

    monkeypatch.setattr(Reencryption, '_write', press)
    code, out, err = safe.run()
    assert (code, out) == (130, '')
    assert '2 were encrypted before that' in err
    assert safe.is_current() == [True, True, False, False, False]


@on_sqlite
def test_reencrypt_shows_its_progress_on_a_terminal(safe, monkeypatch):
    """A person sees how far it is, a script does not."""
    monkeypatch.setattr(reencrypting, 'BATCH', 2)
    fill(safe.start(OLD), 4)
    safe.start(NEW, OLD)
    monkeypatch.setattr(
        Progress, 'is_wanted', staticmethod(lambda: True)
    )
    code, out, err = safe.run()
    assert (code, out) == (0, '4 sessions were encrypted\n')
    assert '50%  2 of 4' in err
    assert '100%  4 of 4' in err
    assert err.endswith(' \r')
