"""Django with its sessions in the database (``backends.db``)."""

import django
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.core.management import call_command
from django.http import HttpResponse
from django.urls import path
import sqlalchemy as sa

from benchmarks.systems import PAYLOAD
from benchmarks.systems.sqlite import PRAGMAS
from benchmarks.wsgi import scenarios


def none(request):
    return HttpResponse('none')


def look(request):
    return HttpResponse(str(request.session.get('user_id')))


def change(request):
    request.session['n'] = request.session['n'] + 1
    return HttpResponse('changed')


def value(request):
    return HttpResponse(str(request.session['n']))


def create(request):
    request.session.update(PAYLOAD)
    return HttpResponse('created')


urlpatterns = [
    path('none', none),
    path('look', look),
    path('read', look),
    path('change', change),
    path('value', value),
    path('create', create),
]


def _database(url):
    if url.get_backend_name() == 'sqlite':
        return {
            'ENGINE': 'django.db.backends.sqlite3',
            'NAME': url.database,
            'OPTIONS': {'init_command': ';'.join(PRAGMAS)},
            'CONN_MAX_AGE': None,
        }
    return {
        'ENGINE': 'django.db.backends.postgresql',
        'NAME': url.database,
        'USER': url.username,
        'PASSWORD': url.password or '',
        'HOST': url.host,
        'PORT': url.port,
        # A connection for ever, as a pool gives.
        'CONN_MAX_AGE': None,
    }


def make(url):
    settings.configure(
        SECRET_KEY='benchmark' * 6,
        ALLOWED_HOSTS=['*'],
        ROOT_URLCONF=__name__,
        DATABASES={'default': _database(sa.make_url(url))},
        INSTALLED_APPS=['django.contrib.sessions'],
        MIDDLEWARE=[
            'django.contrib.sessions.middleware.SessionMiddleware'
        ],
        SESSION_ENGINE='django.contrib.sessions.backends.db',
        USE_TZ=True,
        LOGGING_CONFIG=None,
    )
    django.setup()
    call_command('migrate', verbosity=0)
    return scenarios(WSGIHandler())
