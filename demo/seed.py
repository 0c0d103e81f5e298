"""Fill an empty database: the tables, eight teas, two accounts."""

from sqlalchemy import func
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from sqlalchemy.orm import sessionmaker

from .models import Base
from .models import Tea
from .models import User
from .security import hash_password

ACCOUNTS = (('ada', 'lovelace'), ('grace', 'hopper'))

TEAS = (
    {
        'slug': 'uji-sencha',
        'name': 'Uji Sencha',
        'kind': 'Green',
        'origin': 'Uji, Japan',
        'cents': 1450,
        'degrees': 75,
        'minutes': '1½',
        'taste': 'First flush, steamed within the hour. Tastes of sea air, '
        'young peas and the first warm day of the year.',
    },
    {
        'slug': 'snow-jasmine',
        'name': 'Snow Jasmine',
        'kind': 'Scented green',
        'origin': 'Fuding, China',
        'cents': 1600,
        'degrees': 80,
        'minutes': '2',
        'taste': 'Seven nights beside fresh blossoms, none of which stay in '
        'the tin. What stays is the scent of an open window in June.',
    },
    {
        'slug': 'silver-moon',
        'name': 'Silver Moon',
        'kind': 'White',
        'origin': 'Zhenghe, China',
        'cents': 2200,
        'degrees': 85,
        'minutes': '4',
        'taste': 'Nothing but downy buds, dried in the sun. Pale in the cup, '
        'with melon, hay and a long quiet finish.',
    },
    {
        'slug': 'iron-goddess',
        'name': 'Iron Goddess',
        'kind': 'Oolong',
        'origin': 'Anxi, China',
        'cents': 1850,
        'degrees': 95,
        'minutes': '3',
        'taste': 'Rolled by hand and roasted over charcoal. Orchid at first, '
        'toasted walnut later; good for six infusions.',
    },
    {
        'slug': 'second-flush',
        'name': 'Second Flush',
        'kind': 'Black',
        'origin': 'Assam, India',
        'cents': 1100,
        'degrees': 98,
        'minutes': '4',
        'taste': 'Golden-tipped and malty, strong enough for milk and for '
        'Monday mornings.',
    },
    {
        'slug': 'earl-bergamot',
        'name': 'Earl Bergamot',
        'kind': 'Black, scented',
        'origin': 'Nuwara Eliya and Calabria',
        'cents': 1250,
        'degrees': 95,
        'minutes': '3',
        'taste': 'High-grown Ceylon with oil pressed from real peel. Bright, '
        'dry, and not at all like soap.',
    },
    {
        'slug': 'pine-smoke',
        'name': 'Pine Smoke',
        'kind': 'Black, smoked',
        'origin': 'Wuyi Mountains, China',
        'cents': 1350,
        'degrees': 95,
        'minutes': '3',
        'taste': 'Dried above a fire of pine roots. A camp fire, a wool '
        'blanket, and rain that has just stopped.',
    },
    {
        'slug': 'red-bush',
        'name': 'Red Bush',
        'kind': 'Herbal, no caffeine',
        'origin': 'Cederberg, South Africa',
        'cents': 950,
        'degrees': 100,
        'minutes': '6',
        'taste': 'Sweet, red and round, with honey and orange peel. For '
        'evenings, and for anybody up too late already.',
    },
)


def prepare_database(session_factory: sessionmaker[Session]) -> None:
    """Create what is missing; do nothing to what is there.

    Several workers may start at once on an empty database. Whoever is
    second to create a table or a row gets an error, and finds everything
    in place when looking again.
    """
    for last_attempt in (False, False, True):
        try:
            _create_missing(session_factory)
        except DBAPIError:
            if last_attempt:
                raise
        else:
            return


def _create_missing(session_factory: sessionmaker[Session]) -> None:
    with session_factory.begin() as dbsession:
        Base.metadata.create_all(dbsession.connection())
    with session_factory.begin() as dbsession:
        if not dbsession.scalar(select(func.count(Tea.id))):
            dbsession.add_all(Tea(**tea) for tea in TEAS)
        if not dbsession.scalar(select(func.count(User.id))):
            dbsession.add_all(
                User(name=name, password=hash_password(password))
                for name, password in ACCOUNTS
            )
