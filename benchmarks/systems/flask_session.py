"""Flask-Session with its sessions in SQLAlchemy."""

from flask import Flask
from flask import session
from flask_session import Session

from benchmarks.systems import PAYLOAD
from benchmarks.systems.sqlite import prepare_all_engines
from benchmarks.wsgi import scenarios


def none():
    return 'none'


def look():
    return str(session.get('user_id'))


def change():
    session['n'] = session['n'] + 1
    return 'changed'


def value():
    return str(session['n'])


def create():
    session.update(PAYLOAD)
    return 'created'


def make(url):
    prepare_all_engines()
    app = Flask(__name__)
    app.config.update(
        SQLALCHEMY_DATABASE_URI=url,
        SESSION_TYPE='sqlalchemy',
        # Without it every read writes.
        SESSION_REFRESH_EACH_REQUEST=False,
    )
    Session(app)
    views = {
        'none': none, 'look': look, 'read': look, 'change': change,
        'value': value, 'create': create,
    }
    for name, view in views.items():
        app.add_url_rule(f'/{name}', name, view)
    return scenarios(app)
