"""The cookiecutter's fixtures, for the application of these pages."""

from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

from myapp import main
from myapp import models
import pytest
from sqlalchemy import create_engine
from sqlalchemy import Engine
from sqlalchemy.orm import Session
import transaction
from webtest import TestApp

from pyramid_sqlasession import stop_expiring_sessions


@pytest.fixture(scope='session')
def app_settings() -> dict[str, str]:
    # The cookiecutter reads testing.ini here.
    return {
        'sqlasession.additional_fields':
            'user_id: Integer index\nuser_agent: String(256)\nip: String(45)',
        'sqlasession.extend_default_fields': 'myapp.sessions.device_fields',
        'sqlasession.create_table': 'true',
    }


@pytest.fixture(scope='session')
def dbengine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp('database')
    engine = create_engine(f'sqlite:///{folder}/testing.sqlite')
    models.Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture(scope='session')
def app(app_settings: dict[str, str], dbengine: Engine) -> Iterator[Any]:
    app = main({}, dbengine=dbengine, **app_settings)
    yield app
    stop_expiring_sessions(app)


@pytest.fixture
def tm() -> Iterator[Any]:
    tm = transaction.TransactionManager(explicit=True)
    tm.begin()
    tm.doom()
    yield tm
    tm.abort()


@pytest.fixture
def dbsession(app: Any, tm: Any) -> Session:
    session_factory = app.registry['dbsession_factory']
    return models.get_tm_session(session_factory, tm)


@pytest.fixture
def testapp(app: Any, tm: Any, dbsession: Session) -> TestApp:
    return TestApp(app, extra_environ={
        'HTTP_HOST': 'example.com',
        'tm.active': True,
        'tm.manager': tm,
        'app.dbsession': dbsession,
    })


@pytest.fixture
def user(dbsession: Session) -> models.User:
    user = models.User(name='ada')
    user.set_password('lovelace')
    dbsession.add(user)
    dbsession.flush()
    return user


@pytest.fixture
def login(testapp: TestApp, user: models.User) -> Callable[..., Any]:
    def login(**fields: str) -> Any:
        token = testapp.get('/').json['csrf_token']
        return testapp.post('/login', {
            'name': 'ada', 'password': 'lovelace', 'csrf_token': token,
            **fields,
        }, status=303)

    return login
