"""The smallest model of one's own; what README.rst shows, too."""

# begin
from pyramid_sqlasession import SessionMixin

from myapp.models import Base


class Session(SessionMixin, Base):
    __tablename__ = 'sessions'
# end
