"""The smallest model of one's own; what README.rst shows, too."""

# begin
from myapp.models import Base

from pyramid_sqlasession import SessionMixin


class Session(SessionMixin, Base):
    __tablename__ = 'sessions'
# end
