"""The measured systems, one module each.

``make(url)`` returns a dict from scenario to a function that makes one
request of it.  The scenarios:

====  ================================================================
S0    the application without its session
S1    an anonymous visitor; the view looks at the session
S2    the view reads a key of a stored session
S3    the view changes a key of a stored session
S4    the view fills a new session
Q0    as S0, and the view queries through ``request.dbsession``
Q2    as S2, likewise
Q3    as S3, likewise
====  ================================================================
"""

#: What is stored: 12 keys, about 600 bytes as compact JSON.
PAYLOAD = {
    'user_id': 48213,
    'name': 'Grace Example-Hopper',
    'email': 'grace.hopper@example.org',
    'locale': 'en_GB',
    'groups': ['staff', 'editors', 'reviewers', 'newsletter'],
    'cart': [
        {'sku': 'A-10023', 'title': 'Mechanical pencil', 'n': 2, 'p': 4.5},
        {'sku': 'B-77810', 'title': 'Notebook, squared', 'n': 5, 'p': 3.2},
        {'sku': 'C-00412', 'title': 'Ink, blue-black', 'n': 1, 'p': 12.9},
    ],
    'last_seen_product': 'D-55120',
    'theme': {'dark': True, 'accent': '#3366cc', 'density': 'compact'},
    'return_to': '/catalogue/stationery?page=3&sort=price&view=list',
    'last_search': 'mechanical pencil 0.5 mm',
    'seen_banners': [101, 104, 117, 123, 130, 131, 138, 140, 152],
    'n': 0,
}

#: How many stored sessions S2 and S3 take turns with.
POOL = 200
