"""The smallest model of one's own; what README.rst shows, too."""
# ruff: noqa: I001

# The page shows `from .meta import Base`, as the cookiecutter has it.
from myapp.models import Base

# begin

from pyramid_sqlasession import SessionMixin


class Session(SessionMixin, Base):
    __tablename__ = 'sessions'
# end
