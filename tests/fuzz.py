"""Coverage-guided fuzzing of what reads a stranger's bytes, by atheris.

    pip install atheris
    python -m tests.fuzz cookie -max_total_time=60
    python -m tests.fuzz data -max_total_time=60

No test of pytest: it runs until it finds something, or until it is stopped.
"""

import contextlib
import sys

import atheris

with atheris.instrument_imports(include=['pyramid_sqlasession']):
    from pyramid_sqlasession.codec import Codec
    from pyramid_sqlasession.codec import DamagedData
    from pyramid_sqlasession.cookie import CookiePolicy
    from pyramid_sqlasession.cookie import new_token
    from pyramid_sqlasession.retired import unpack_retired
    from pyramid_sqlasession.serializers import JSONSerializer
    from pyramid_sqlasession.settings import read_settings

KEY = 'AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA='
POLICIES = [
    CookiePolicy(read_settings({'sqlasession.secret': secret}))
    for secret in ('', 'one two')
]
CODECS = [
    Codec(read_settings({'sqlasession.encryption_keys': keys}))
    for keys in ('', KEY)
]


def cookie(raw):
    """The header: a token of 16 and 32 bytes, or none; never an error."""
    header = raw.decode('latin-1')
    signed = POLICIES[1].read({'HTTP_COOKIE': header})[0]
    # Nobody guesses a signature.
    assert signed is None
    for policy in POLICIES:
        token, is_forged = policy.read({'HTTP_COOKIE': header})
        assert token is None or not is_forged
        assert token is None or len(token.secret) == 32
        # Whatever comes before it, a cookie of ours is found.
        ours = new_token()
        found, _ = policy.read(
            {'HTTP_COOKIE': f'session={policy.value(ours)}; {header}'}
        )
        assert found == ours


def data(raw):
    """A row: data or an error that is expected, and data can be written."""
    try:
        found = JSONSerializer().loads(raw)
    except ValueError:
        pass
    else:
        if isinstance(found, dict):
            JSONSerializer().dumps(found)
    text = raw.decode('utf-8', 'replace')
    for codec in CODECS:
        for prefix in ('', 'base64:', 'fernet:'):
            with contextlib.suppress(DamagedData):
                codec.read(prefix + text)
            codec.is_current(prefix + text)
    unpack_retired(raw)


if __name__ == '__main__':
    target = {'cookie': cookie, 'data': data}[sys.argv[1]]
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target)
    atheris.Fuzz()
