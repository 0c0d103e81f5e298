"""What an attacker tries who tries anything; the same for the same seed."""

import json

TAGS = (
    '$dict', '$tuple', '$set', '$datetime', '$date', '$time', '$timedelta',
    '$decimal', '$uuid', '$bytes', '$int', '$float', '$x', '_csrft_', '_f_',
    '_fh_', '', 'a',
)
_ODD = ('', '"', '""', '\x00', '=', ';', ',', '\t', '$Path=/', '.', '%41')
_SCALARS = (
    None, True, 0, -1, 2**63, 1e300, float('nan'), '', 'nan', '0x1', '-0x',
    '2026-01-01', '12:00', 'AA==', '\ud800',
)


def _odd(chance):
    if chance.random() < 0.5:
        return chance.choice(_ODD)
    return chance.randbytes(chance.randrange(40)).decode('latin-1')


def near(chance, token):
    """Return what is nearly *token*, and never the same."""
    place = chance.randrange(len(token))
    kind = chance.randrange(7)
    if kind == 0:
        found = token[:place] + _odd(chance) + token[place:]
    elif kind == 1:
        found = token[:place] + chance.choice('AZaz09-_') + token[place + 1:]
    elif kind == 2:
        found = token[place:] + token[:place]
    elif kind == 3:
        found = token[:place]
    elif kind == 4:
        found = token * chance.randrange(2, 40)
    elif kind == 5:
        found = token.swapcase()
    else:
        # (A signature behind it is taken where there is no ``secret``.)
        found = f'{token}.{token[:42]}'
    return found if found.strip(' \t"') != token else found[1:]


def header(chance, token):
    """Return a Cookie header that has no right to *token*'s session."""
    parts = [
        chance.choice((
            f'session={near(chance, token)}', f'session={_odd(chance)}',
            _odd(chance), f'Session={token}', f'sessions={token}',
            f'session ={token}',
        ))
        for _ in range(chance.randrange(1, 6))
    ]
    return chance.choice((';', '; ', ',', '\t')).join(parts)


def is_own(text, token):
    """Return whether a Cookie header has the token itself after all."""
    own = {f'session={token}', f'session="{token}"'}
    return bool(own & {part.strip(' \t') for part in text.split(';')})


def stored(chance):
    """Return bytes that somebody may have put into a row."""
    raw = json.dumps(_value(chance, 0)).encode()
    for _ in range(chance.randrange(3)):
        place = chance.randrange(len(raw) + 1)
        piece = chance.randbytes(chance.randrange(4))
        raw = raw[:place] + piece + raw[place + chance.randrange(3):]
    return raw


def _value(chance, depth):
    kind = chance.randrange(3) if depth < 4 else 0
    if kind == 0:
        return chance.choice(_SCALARS)
    inner = [_value(chance, depth + 1) for _ in range(chance.randrange(4))]
    if kind == 1:
        return inner
    return {chance.choice(TAGS): value for value in inner}
