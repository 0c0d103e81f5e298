"""What is added to the cookiecutter's env.py."""
# ruff: noqa: E402, I001

# The cookiecutter's own lines.
from alembic import context
from pyramid.paster import get_appsettings

from myapp.models import Base

settings = get_appsettings(context.config.config_file_name)
target_metadata = Base.metadata

# begin
from pyramid_sqlasession import session_model

if 'sessions' not in target_metadata.tables:
    session_model(
        target_metadata,
        fields=settings.get('sqlasession.additional_fields', ''),
    )
# end
