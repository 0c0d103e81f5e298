"""The application of the ini file, started for the command."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
import configparser
from contextlib import contextmanager
import os
from typing import Any

from pyramid.config import global_registries
from pyramid.exceptions import ConfigurationError
from pyramid.paster import bootstrap
from pyramid.paster import setup_logging

from pyramid_sqlasession.application import Application
from pyramid_sqlasession.application import found_in
from pyramid_sqlasession.scripts.failures import Failure
from pyramid_sqlasession.scripts.failures import line
from pyramid_sqlasession.scripts.failures import text_of
from pyramid_sqlasession.scripts.failures import UsageFailure
from pyramid_sqlasession.wiring import not_serving


@contextmanager
def started(args: argparse.Namespace) -> Iterator[Application]:
    """Start the application of the ini file, give ours in it."""
    options = dict(args.var)
    options.setdefault('__script__', 'psessions')
    before = list(global_registries)
    try:
        setup_logging(args.ini, global_conf=options)
        with not_serving():
            env = bootstrap(args.ini, options=options)
    except (Exception, SystemExit) as error:
        raise _not_started(error, args.ini) from error
    try:
        application = _only_one(env['app'], before, args.ini)
        try:
            yield application
        finally:
            application.engine.dispose()
    finally:
        env['closer']()


def _only_one(app: Any, before: list[Any], ini: str) -> Application:
    """Return the application with sessions that was started.

    :param before: the registries that were there already.
    """
    if hasattr(app, 'registry'):
        registries = [app.registry]
    else:
        # Middleware, or a composite, of which Pyramid takes the last one.
        registries = [
            registry for registry in global_registries
            if all(registry is not other for other in before)
        ]
    found = [one for registry in registries if (one := found_in(registry))]
    if not found:
        raise Failure(
            f'the application of {ini} has no sessions of '
            f'pyramid_sqlasession; add it to pyramid.includes in the '
            f"file, or config.include('pyramid_sqlasession') to the code"
        )
    if len(found) > 1:
        path = ini.partition('#')[0]
        raise UsageFailure(
            f'{ini} starts {len(found)} applications with sessions; name the '
            f'section of one: {path}#NAME'
        )
    return found[0]


def _not_started(error: BaseException, ini: str) -> Failure:
    path, _, section = ini.partition('#')
    if '://' not in path and not os.path.exists(path):
        return UsageFailure(
            f'there is no file {path!r}; the first argument is the ini file '
            f'of the application'
        )
    if isinstance(error, configparser.InterpolationMissingOptionError):
        return UsageFailure(
            f'{ini} needs the variable {error.reference!r}; give it with '
            f'--var {error.reference}=VALUE'
        )
    # PasteDeploy's lists all that a section of it could be called.
    if isinstance(error, LookupError) and 'No section' in str(error):
        return UsageFailure(
            f'{path} has no section [app:{section or "main"}]; name the one '
            f'of the application: {path}#NAME'
        )
    # Pyramid puts an error of an action into one that tells the place.
    error = getattr(error, 'evalue', None) or error
    if isinstance(error, ConfigurationError):
        return Failure(line(error))
    return Failure(
        line(
            f'the application of {ini} does not start', text_of(error),
            '"psessions --traceback …" shows where; "pserve" has to start it',
        )
    )
