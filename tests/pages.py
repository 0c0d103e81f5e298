"""Pages of the documentation as tests read them."""

import re
import textwrap


def blocks(path, language):
    """Return the code blocks of a page, dedented."""
    text = path.read_text(encoding='utf-8')
    pattern = (
        rf'^( *)\.\. code-block:: {language}\n'
        r'((?:\1 +:.*\n)*)\n((?:\1 +.*\n|\n)+)'
    )
    return [
        textwrap.dedent(match[3])
        for match in re.finditer(pattern, text, re.MULTILINE)
    ]
