"""Sessions with an engine of their own (T0)."""

import pytest
import sqlalchemy as sa
import transaction

from pyramid_sqlasession import SessionCreated

from .failing import answering
from .failing import Failure
from .failing import raiser
from .failing import Voter
from .site import Note
from .test_transaction import CHANGES
