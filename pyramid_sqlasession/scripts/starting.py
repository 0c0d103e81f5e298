"""The application of the ini file, started for the command."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
import configparser
from contextlib import contextmanager
import os

from pyramid.exceptions import ConfigurationError
from pyramid.paster import bootstrap
from pyramid.paster import setup_logging

from pyramid_sqlasession.application import Application
from pyramid_sqlasession.scripts.failures import Failure
from pyramid_sqlasession.scripts.failures import line
from pyramid_sqlasession.scripts.failures import text_of
from pyramid_sqlasession.scripts.failures import UsageFailure
from pyramid_sqlasession.wiring import application_of
from pyramid_sqlasession.wiring import not_serving


@contextmanager
def started(args: argparse.Namespace) -> Iterator[Application]:
    """Start the application of the ini file, give ours in it."""
    options = dict(args.var)
    options.setdefault('__script__', 'psessions')
    try:
        setup_logging(args.ini, global_conf=options)
        with not_serving():
            env = bootstrap(args.ini, options=options)
    except Exception as error:
        raise _not_started(error, args.ini) from error
    try:
        try:
            application = application_of(env['registry'])
        except ConfigurationError as error:
            raise Failure(
                f'the application of {args.ini} has no sessions of '
                f'pyramid_sqlasession; add it to pyramid.includes in the '
                f"file, or config.include('pyramid_sqlasession') to the code"
            ) from error
        try:
            yield application
        finally:
            application.engine.dispose()
    finally:
        env['closer']()


def _not_started(error: Exception, ini: str) -> Failure:
    path = ini.partition('#')[0]
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
