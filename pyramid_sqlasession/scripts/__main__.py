"""``python -m pyramid_sqlasession.scripts`` is ``psessions``."""

import sys

from pyramid_sqlasession.scripts import main

if __name__ == '__main__':
    sys.exit(main())
