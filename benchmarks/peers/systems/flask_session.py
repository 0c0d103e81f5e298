"""Flask-Session with its sessions in SQLAlchemy."""

import datetime as dt

from flask import flash
from flask import Flask
from flask import get_flashed_messages
from flask import request
from flask import session
from flask_session import Session
from flask_sqlalchemy import SQLAlchemy
import sqlalchemy as sa

from benchmarks.peers import systems


class Handle(systems.Handle):
    def __init__(self, app, db):
        super().__init__(session)
        self._app = app
        self._db = db

    def flash(self, message):
        flash(message)

    def pop(self):
        return get_flashed_messages()

    def login(self):
        self._app.session_interface.regenerate(session)

    def logout(self):
        session.clear()

    def order(self):
        self._db.session.execute(sa.text(systems.ORDER))

    def orders(self):
        return self._db.session.execute(
            sa.text(systems.COUNT_ORDERS)
        ).scalar()


class System(systems.System):
    def __init__(self, url, settings):
        self.app = Flask(__name__)
        # Room for every request of the case that counts up.
        options = {'pool_size': 20}
        self.app.config.update(
            SQLALCHEMY_DATABASE_URI=url, SQLALCHEMY_ENGINE_OPTIONS=options,
            SESSION_TYPE='sqlalchemy', **settings,
        )
        self._db = db = SQLAlchemy(self.app)
        self.app.config['SESSION_SQLALCHEMY'] = db
        Session(self.app)
        self._model = self.app.session_interface.sql_session_model

        @self.app.route('/')
        def view():
            try:
                request.environ[systems.ACT](Handle(self.app, db))
            except systems.Refused:
                db.session.rollback()
                return 'refused', 409
            return 'done'

        with self.app.app_context(), db.engine.begin() as connection:
            connection.exec_driver_sql(systems.CREATE_ORDERS)

    def _run(self, statement):
        with self.app.app_context(), self._db.engine.begin() as connection:
            return connection.execute(statement)

    def clear(self):
        self._run(sa.delete(self._model))

    def age(self):
        with self.app.app_context():
            for one in self._model.query:
                one.expiry -= systems.AGE
            self._db.session.commit()

    def expire(self):
        past = dt.datetime(2000, 1, 1)
        self._run(sa.update(self._model).values(expiry=past))

    def clean(self):
        with self.app.app_context():
            # What its command `flask session_cleanup` calls.
            self.app.session_interface._delete_expired_sessions()

    def count(self):
        with self.app.app_context(), self._db.engine.begin() as connection:
            return connection.execute(
                sa.select(sa.func.count()).select_from(self._model)
            ).scalar()

    def close(self):
        with self.app.app_context():
            self._db.engine.dispose()


def make(url, **settings):
    return System(url, settings)
