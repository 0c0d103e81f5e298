from pathlib import Path

from setuptools import find_packages
from setuptools import setup

here = Path(__file__).parent


def read(name):
    return (here / name).read_text(encoding='utf-8')


postgresql = ['psycopg[binary]>=3.1.4']
mysql = ['PyMySQL>=1.0.3']
encryption = ['cryptography>=41']
# 1.30: buckets of a histogram that fit seconds.
metrics = ['opentelemetry-api>=1.30']

demo = [
    'plaster_pastedeploy',
    'pyramid_debugtoolbar>=4.10',
    'pyramid_jinja2>=2.10',
    'pyramid_retry>=2.1',
    'waitress>=2.1',
]

testing = [
    *postgresql,
    *mysql,
    *encryption,
    *metrics,
    *demo,
    'alembic>=1.13',
    # Stores from which sessions are carried over (docs/migrating.rst).
    'Beaker>=1.13',
    'coverage>=7.4',
    # Of suites that stop the time (docs/testing.rst).
    'freezegun>=1.5',
    'hypothesis>=6.90',
    # Over the code of a user (tests/typing).
    'mypy>=1.11',
    # Drivers beside the two that are recommended (tests/test_drivers.py).
    'mysql-connector-python>=9',
    'pg8000>=1.31',
    'psycopg2-binary>=2.9.9',
    'opentelemetry-sdk>=1.30',
    # Drives the machine's own Chromium; it downloads none.
    'playwright>=1.52',
    'pyramid_beaker>=0.9',
    'pyramid_session_redis>=1.8',
    'pytest>=8',
    'pytest-timeout>=2.2',
    'pytest-xdist>=3.5',
    'webtest>=3.0',
]

docs = [
    'Sphinx>=7.4',
    'pylons-sphinx-themes>=1.0.13',
]

# What `make lint`, `make types` and `make dist` run.
checks = [
    'build>=1.2',
    'docutils>=0.20',
    'mypy>=1.11',
    'ruff>=0.6',
]

setup(
    name='pyramid_sqlasession',
    version='1.0.dev0',
    description=(
        'Server-side sessions for Pyramid in the database and the '
        'transaction of the application, by SQLAlchemy'
    ),
    long_description=read('README.rst') + '\n\n' + read('CHANGES.rst'),
    long_description_content_type='text/x-rst',
    license='MIT',
    license_files=['LICENSE.txt'],
    keywords='pyramid session sqlalchemy cookie web',
    classifiers=[
        'Development Status :: 4 - Beta',
        'Environment :: Web Environment',
        'Framework :: Pyramid',
        'Intended Audience :: Developers',
        'Operating System :: OS Independent',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3 :: Only',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Programming Language :: Python :: 3.14',
        'Programming Language :: Python :: 3.15',
        # orjson has no other (and no wheel for one without the GIL).
        'Programming Language :: Python :: Implementation :: CPython',
        'Topic :: Database',
        'Topic :: Internet :: WWW/HTTP :: Session',
        'Typing :: Typed',
    ],
    python_requires='>=3.11',
    # Without it an editable install maps only the names in `packages`, and
    # `pserve development.ini` could not import demo/, which is no part of
    # the distribution.  With it the folder itself goes on sys.path.
    package_dir={'': '.'},
    # Named, because bare find_packages() would ship tests and demo too.
    packages=find_packages(
        include=['pyramid_sqlasession', 'pyramid_sqlasession.*'],
    ),
    package_data={'pyramid_sqlasession': ['py.typed', 'templates/*']},
    zip_safe=False,
    install_requires=[
        'orjson>=3.9.10',
        'pyramid>=2.0',
        # 2.4: `tm.active` and `tm.manager` in the environ, for tests.
        'pyramid_tm>=2.4',
        # 2.0.11 survives anything that SQLite keeps in a column of bytes.
        # 2.0.32 to 2.0.35 dead-lock below zope.sqlalchemy, which excludes
        # them too from its release 4.0 on.
        'SQLAlchemy>=2.0.11,!=2.0.32,!=2.0.33,!=2.0.34,!=2.0.35',
        'transaction>=4.0',
        'zope.interface>=5.5',
        # 3.0 knows SQLAlchemy 2 and psycopg 3; 3.1 survives psycopg errors
        # that carry no SQLSTATE (a lost connection).
        'zope.sqlalchemy>=3.1',
    ],
    extras_require={
        'postgresql': postgresql,
        'mysql': mysql,
        'encryption': encryption,
        'metrics': metrics,
        'demo': demo,
        'testing': testing,
        'docs': docs,
        'checks': checks,
    },
    entry_points={
        'console_scripts': [
            'psessions = pyramid_sqlasession.scripts:main',
        ],
        'pytest11': [
            'pyramid_sqlasession = pyramid_sqlasession.pytest_plugin',
        ],
    },
)
