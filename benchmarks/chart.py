"""Horizontal bars as SVG, written by hand; light and dark."""

from html import escape

_BAR = 16
_GAP = 4
_GROUP_GAP = 30
_LEFT = 210
_WIDTH = 760
_RIGHT = 64

_STYLE = """\
text { font: 13px system-ui, sans-serif; fill: #24292f; }
.title { font-size: 15px; font-weight: 600; }
.group { font-weight: 600; }
.name { text-anchor: end; }
.bar { fill: #9aa7b5; }
.ours { fill: #1f6feb; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; }
  .bar { fill: #6e7b88; }
  .ours { fill: #58a6ff; }
}
"""


def chart(title, groups, values, highlight):
    """Return an SVG document.

    :param groups: the names of the groups.
    :param values: series name -> one value for each group, or None.
    :param highlight: the series that stands out.
    """
    most = max(v for row in values.values() for v in row if v is not None)
    scale = (_WIDTH - _LEFT - _RIGHT) / most
    parts, y = [], 34
    for index, group in enumerate(groups):
        y += _GROUP_GAP
        parts.append(f'<text class="group" x="8" y="{y - 8}">{group}</text>')
        rows = sorted(
            (row[index], name)
            for name, row in values.items() if row[index] is not None
        )
        for value, name in rows:
            kind = 'bar ours' if name == highlight else 'bar'
            parts.append(_bar(y, name, value, value * scale, kind))
            y += _BAR + _GAP
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" '
        f'viewBox="0 0 {_WIDTH} {y + 12}" width="{_WIDTH}" '
        f'height="{y + 12}">'
    )
    return '\n'.join([
        head, f'<title>{escape(title)}</title>',
        f'<style>\n{_STYLE}</style>',
        f'<text class="title" x="8" y="22">{escape(title)}</text>',
        *parts, '</svg>', '',
    ])


def _bar(y, name, value, width, kind):
    middle = y + _BAR - 4
    width = max(width, 1)
    return (
        f'<text class="name" x="{_LEFT - 8}" y="{middle}">{escape(name)}'
        f'</text><rect class="{kind}" x="{_LEFT}" y="{y}" '
        f'width="{width:.1f}" height="{_BAR}" rx="2"/>'
        f'<text x="{_LEFT + width + 6:.1f}" y="{middle}">{value:.0f}</text>'
    )
