"""docs/asvs.rst and docs/security.rst: complete, and each proof exists."""

import ast
from pathlib import Path
import re

import pytest

from pyramid_sqlasession import advice

ROOT = Path(__file__).parents[1]
TESTS = ROOT / 'tests'
ASVS = (ROOT / 'docs' / 'asvs.rst').read_text(encoding='utf-8')
SECURITY = (ROOT / 'docs' / 'security.rst').read_text(encoding='utf-8')

#: Chapter 7 and section 3.3 of OWASP ASVS 5.0, with how many there are.
SECTIONS = {
    '7.1': 3, '7.2': 4, '7.3': 2, '7.4': 5, '7.5': 3, '7.6': 2, '3.3': 5,
}
REQUIREMENTS = [
    f'{section}.{number}'
    for section, count in SECTIONS.items()
    for number in range(1, count + 1)
]
#: What no code here has a part in.
APPLICATION = {'7.1.3', '7.4.4'}

PROOFS = sorted(set(re.findall(r'``(test_\w+\.py::\w+)``', ASVS)))


def row_of(requirement):
    """Return the row of the page about a requirement."""
    rows = re.split(r'^   \* - ', ASVS, flags=re.MULTILINE)
    (row,) = [row for row in rows if row.startswith(f'**{requirement}**')]
    return row


def functions_of(name):
    """Return the names of the tests in a file."""
    tree = ast.parse((TESTS / name).read_text(encoding='utf-8'))
    return {
        node.name for node in tree.body if isinstance(node, ast.FunctionDef)
    }


@pytest.mark.parametrize('proof', PROOFS)
def test_each_proof_exists(proof):
    """A test that the page names is a test."""
    name, _, function = proof.partition('::')
    assert (TESTS / name).is_file()
    assert function in functions_of(name)


def test_every_name_of_a_test_is_checked():
    """Whatever looks like a test on the page is one of the above."""
    assert len(PROOFS) > 40
    # Files without a name of a test are fine only with the double colon.
    assert set(re.findall(r'test_\w+\.py(?!::)', ASVS)) == set()
    assert {proof.partition('::')[2] for proof in PROOFS} == set(
        re.findall(r'::(\w+)', ASVS)
    )


@pytest.mark.parametrize('requirement', REQUIREMENTS)
def test_each_requirement_has_a_row(requirement):
    """With its level, what is here, and a proof."""
    row = row_of(requirement)
    assert re.match(r'\*\*[\d.]+\*\* \(L[123]\) ', row)
    assert row.count('\n     - ') == 2
    assert ('test_' in row) == (requirement not in APPLICATION)


def test_there_are_no_others():
    """A number that ASVS 5.0 does not have is an error."""
    named = re.findall(r'\*\*(\d\.\d\.\d)\*\* \(L', ASVS)
    assert named == REQUIREMENTS


def test_the_page_on_security_names_every_setting_that_is_advised_on():
    """The table of advice is that of the code."""
    source = Path(advice.__file__).read_text(encoding='utf-8')
    keys = set(re.findall(r'\bsqlasession\.([a-z_]+)', source))
    keys |= {'expiration', 'absolute_timeout'}
    table = SECURITY[SECURITY.index('Advice at start-up'):]
    table = table[:table.index('\nCSRF')]
    assert keys <= set(re.findall(r'``([a-z_]+)', table))
