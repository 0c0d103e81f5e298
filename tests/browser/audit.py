"""What can be told about a page without looking at it.

Names and roles are those that Chromium gives to a screen reader; contrasts
are computed from what it is going to paint.
"""

from .visitor import DESKTOP
from .visitor import PHONE

# WCAG 2.2: 1.4.3 (text), 1.4.11 (edges of fields), 2.5.8 (targets).
TEXT_CONTRAST = 4.5
LARGE_TEXT_CONTRAST = 3
EDGE_CONTRAST = 3
TARGET = 24
# 1.4.10: what a page of 1280 has left at 400 %.
NARROWEST = 320

NAMED_ROLES = {
    'button', 'checkbox', 'combobox', 'image', 'link', 'navigation', 'region',
    'spinbutton', 'textbox',
}
LANDMARKS = ('banner', 'main', 'contentinfo')

SCRIPT = """
([textContrast, largeTextContrast, edgeContrast, target]) => {
  const colours = text => [...text.matchAll(/rgba?\\(([^)]*)\\)/g)].map(
    found => {
      const [r, g, b, alpha = 1] = found[1].split(/[ ,/]+/).map(Number);
      return {r, g, b, alpha};
    });
  const luminance = ({r, g, b}) => {
    const [R, G, B] = [r, g, b].map(part => {
      part /= 255;
      return part <= .04045 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4;
    });
    return .2126 * R + .7152 * G + .0722 * B;
  };
  const contrast = (one, other) => {
    const [dark, light] = [luminance(one), luminance(other)].sort(
      (a, b) => a - b);
    return (light + .05) / (dark + .05);
  };
  // Whatever may lie behind an element: one colour, or those of a gradient.
  const grounds = element => {
    for (; element; element = element.parentElement) {
      const style = getComputedStyle(element);
      const sizes = style.backgroundSize.split(', ');
      const found = style.backgroundImage
        .split(/, (?=[a-z-]*gradient)/)
        // A layer with a size of its own is an ornament, not a ground.
        .filter((_, index) => sizes[index % sizes.length] === 'auto')
        .flatMap(colours)
        .filter(colour => colour.alpha);
      if (found.length) return found;
      const [colour] = colours(style.backgroundColor);
      if (colour.alpha) return [colour];
    }
    return [{r: 255, g: 255, b: 255, alpha: 1}];
  };
  const worst = (colour, element) => Math.min(
    ...grounds(element).map(ground => contrast(colour, ground)));
  const isSeen = element => element.checkVisibility({opacityProperty: true})
    && !element.closest('.unseen, .skip');

  const faint = [];
  const walker = document.createTreeWalker(document.body, 4);
  while (walker.nextNode()) {
    const words = walker.currentNode.data.trim();
    const element = walker.currentNode.parentElement;
    if (!words || !isSeen(element)) continue;
    const style = getComputedStyle(element);
    const size = parseFloat(style.fontSize);
    const isLarge = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    const found = worst(colours(style.color)[0], element);
    if (found < (isLarge ? largeTextContrast : textContrast))
      faint.push(`${words}: ${found.toFixed(2)}`);
  }
  const fields = [...document.querySelectorAll(
    'input:not([type=hidden]), select, textarea')];
  for (const field of fields) {
    const [edge] = colours(getComputedStyle(field).borderTopColor);
    const found = worst(edge, field.parentElement);
    if (found < edgeContrast) faint.push(`#${field.id}: ${found.toFixed(2)}`);
  }
  const small = [...document.querySelectorAll(
    'button, .button, .nav a, input:not([type=hidden])')]
    .filter(isSeen)
    .map(control => [control, control.getBoundingClientRect()])
    .filter(([, box]) => Math.min(box.width, box.height) < target)
    .map(([control]) => control.outerHTML);
  const ids = [...document.querySelectorAll('[id]')].map(one => one.id);
  return {
    language: document.documentElement.lang,
    title: document.title,
    faint,
    small,
    texts: document.body.innerText.length,
    repeatedIds: ids.filter((id, index) => ids.indexOf(id) !== index),
    unlabelled: fields.filter(field => !field.labels.length)
      .map(field => field.outerHTML),
    jumpers: document.querySelectorAll('[tabindex]:not([tabindex="-1"])')
      .length,
  };
}
"""


def audit(visitor):
    """Return what is to be known about the page that is open, as a dict."""
    page = visitor.page
    found = page.evaluate(
        SCRIPT, [TEXT_CONTRAST, LARGE_TEXT_CONTRAST, EDGE_CONTRAST, TARGET]
    )
    nodes = _read_out(visitor)
    found['landmarks'] = [
        role for role, _, _ in nodes if role in LANDMARKS
    ]
    found['headings'] = [
        (level, name) for role, name, level in nodes if role == 'heading'
    ]
    found['nameless'] = [
        role for role, name, _ in nodes if role in NAMED_ROLES and not name
    ]
    found['widths'] = {}
    for width in (DESKTOP['width'], PHONE['width'], NARROWEST):
        page.set_viewport_size({**PHONE, 'width': width})
        found['widths'][width] = page.evaluate(
            'document.documentElement.scrollWidth'
        )
    page.set_viewport_size(DESKTOP)
    return found


def _read_out(visitor):
    """Return (role, name, level) of each thing a screen reader meets, in the
    order in which it does.
    """
    cdp = visitor.context.new_cdp_session(visitor.page)
    nodes = cdp.send('Accessibility.getFullAXTree')['nodes']
    cdp.detach()
    by_id = {node['nodeId']: node for node in nodes}
    found, left = [], [nodes[0]['nodeId']]
    while left:
        node = by_id[left.pop()]
        left += reversed(node.get('childIds', ()))
        if not node['ignored']:
            properties = {
                one['name']: one['value'].get('value')
                for one in node.get('properties', ())
            }
            name = node.get('name', {}).get('value', '')
            found.append((
                node['role']['value'], name.strip(), properties.get('level')
            ))
    return found
