"""Django with its sessions in the database (``backends.db``)."""

import datetime as dt
import logging
import threading

import django
from django.conf import settings
from django.contrib import messages
from django.core.handlers.wsgi import WSGIHandler
from django.core.management import call_command
from django.core.signals import request_finished
from django.db import connection
from django.db import transaction
from django.http import HttpResponse
from django.urls import path
import sqlalchemy as sa

from benchmarks.peers import systems


class Handle(systems.Handle):
    def __init__(self, request):
        super().__init__(request.session)
        self._request = request

    def flash(self, message):
        messages.info(self._request, message)

    def pop(self):
        return [str(one) for one in messages.get_messages(self._request)]

    def login(self):
        self.session.cycle_key()

    def logout(self):
        self.session.flush()

    def checkout(self):
        with transaction.atomic():
            super().checkout()

    def order(self):
        with connection.cursor() as cursor:
            cursor.execute(systems.ORDER)

    def orders(self):
        with connection.cursor() as cursor:
            cursor.execute(systems.COUNT_ORDERS)
            return cursor.fetchone()[0]


def view(request):
    try:
        request.environ[systems.ACT](Handle(request))
    except systems.Refused:
        return HttpResponse('refused', status=409)
    return HttpResponse('done')


urlpatterns = [path('', view)]


def _database(url):
    # The default would connect for each request, which takes most of the
    # time here and changes nothing that is counted.
    return {'CONN_MAX_AGE': None} | _address(url)


def _address(url):
    if url.get_backend_name() == 'sqlite':
        return {
            'ENGINE': 'django.db.backends.sqlite3', 'NAME': url.database,
        }
    return {
        'ENGINE': 'django.db.backends.postgresql', 'NAME': url.database,
        'USER': url.username, 'HOST': url.host, 'PORT': url.port,
    }


def _close_in_thread(**kw):
    # A thread lives for one request here, and its connection is its own.
    if threading.current_thread() is not threading.main_thread():
        connection.close()


def _set_up(url):
    settings.configure(
        SECRET_KEY='peers' * 10,
        ALLOWED_HOSTS=['*'],
        ROOT_URLCONF=__name__,
        DATABASES={'default': _database(sa.make_url(url))},
        INSTALLED_APPS=[
            'django.contrib.sessions', 'django.contrib.messages',
        ],
        MIDDLEWARE=[
            'django.contrib.sessions.middleware.SessionMiddleware',
            'django.contrib.messages.middleware.MessageMiddleware',
        ],
        SESSION_ENGINE='django.contrib.sessions.backends.db',
        # By default short messages are in a cookie of their own.
        MESSAGE_STORAGE=(
            'django.contrib.messages.storage.session.SessionStorage'
        ),
        USE_TZ=True,
        LOGGING_CONFIG=None,
    )
    # It logs each answer 400; they are counted here.
    logging.getLogger('django').setLevel(logging.CRITICAL)
    django.setup()
    request_finished.connect(_close_in_thread)
    call_command('migrate', verbosity=0)
    with connection.cursor() as cursor:
        cursor.execute(systems.CREATE_ORDERS)


class System(systems.System):
    def __init__(self, url, changed):
        # One configuration for a process: a variant changes it for a while,
        # and shares the database.
        if not settings.configured:
            _set_up(url)
        from django.contrib.sessions.models import Session

        self._sessions = Session.objects
        self._before = {name: getattr(settings, name) for name in changed}
        self._set(changed)
        self.app = WSGIHandler()

    def _set(self, values):
        for name, value in values.items():
            setattr(settings, name, value)

    def clear(self):
        self._sessions.all().delete()

    def age(self):
        for one in self._sessions.all():
            one.expire_date -= systems.AGE
            one.save()

    def expire(self):
        past = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
        self._sessions.update(expire_date=past)

    def clean(self):
        call_command('clearsessions')

    def count(self):
        return self._sessions.count()

    def close(self):
        self._set(self._before)
        connection.close()


def make(url, **changed):
    return System(url, changed)
