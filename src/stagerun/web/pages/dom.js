// The page as plain values, and what brings the real page in line with them.
//
// A view is a function that returns h(...) values; draw() changes only what differs, so that focus,
// selection, scrolling and hovering survive every refresh. Whatever a run, an item or an error
// contains becomes a text node or an attribute: nothing here ever parses markup.

const SVG = 'http://www.w3.org/2000/svg';
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

/** Describe an element: attributes, `on…` handlers, `style` (an object), `tip`, `mount`, `key`. */
export function h(tag, props, ...children) {
  return { tag, props: props ?? {}, children };
}

/**
 * Remembers views of which nothing has changed: `same(name, seen, make)` makes a view anew only when
 * one of the values in `seen` is another one. What is the same value is not even compared.
 */
export function memory() {
  const known = new Map();
  return (name, seen, make) => {
    const old = known.get(name);
    if (old?.seen.every((value, place) => Object.is(value, seen[place]))) return old.view;
    const view = make();
    known.set(name, { seen, view });
    return view;
  };
}

/** Make the children of a real element look like these values. */
export function draw(parent, ...children) {
  if (!parent.entries) parent.replaceChildren();
  patchChildren(parent, children, parent.namespaceURI === SVG);
}

function patchChildren(parent, children, inSvg) {
  const known = parent.entries ?? new Map();
  const wanted = new Map();
  collect(children, '', wanted);

  for (const [key, entry] of known) {
    const next = wanted.get(key);
    if (next === undefined || typeOf(next) !== typeOf(entry.value)) {
      entry.node.remove();
      known.delete(key);
    }
  }
  const entries = new Map();
  let cursor = parent.firstChild;
  for (const [key, value] of wanted) {
    const old = known.get(key);
    const node = old ? old.node : create(value, inSvg);
    if (node === cursor) cursor = cursor.nextSibling;
    else parent.insertBefore(node, cursor);
    update(node, old?.value, value, inSvg);
    entries.set(key, { value, node });
  }
  parent.entries = entries;
}

/** Give every child a key: its own, or its place, which stays the same when siblings come and go. */
function collect(children, path, into) {
  children.forEach((child, index) => {
    if (child === null || child === undefined || child === false) return;
    if (Array.isArray(child)) {
      collect(child, `${path}${index}.`, into);
      return;
    }
    const value = typeof child === 'object' ? child : visible(String(child));
    into.set(`${path}${value.props?.key !== undefined ? `k${value.props.key}` : index}`, value);
  });
}

/** Control characters, and those that turn the direction of text, are shown rather than obeyed. */
function visible(text) {
  return text.replace(HIDDEN, (sign) => `\\u${sign.codePointAt(0).toString(16).padStart(4, '0')}`);
}

function typeOf(value) {
  return typeof value === 'string' ? '#text' : value.tag;
}

function create(value, inSvg) {
  if (typeof value === 'string') return document.createTextNode(value);
  const svg = inSvg || value.tag === 'svg';
  return svg ? document.createElementNS(SVG, value.tag) : document.createElement(value.tag);
}

function update(node, old, value, inSvg) {
  if (old === value) return;
  if (typeof value === 'string') {
    node.nodeValue = value;
    return;
  }
  const before = old?.props ?? {};
  const now = value.props;
  for (const name of Object.keys(before)) {
    if (!(name in now)) setProperty(node, name, before[name], null);
  }
  for (const name of Object.keys(now)) {
    if (name !== 'value' && now[name] !== before[name]) {
      setProperty(node, name, before[name], now[name]);
    }
  }
  patchChildren(node, value.children, inSvg || value.tag === 'svg');
  // A select knows its value only once it has its options. What somebody types is left alone.
  if ('value' in now && now.value !== before.value && node.value !== now.value) {
    node.value = now.value;
  }
  if (!old) now.mount?.(node);
}

function setProperty(node, name, before, now) {
  if (name === 'key' || name === 'mount') return;
  if (name === 'tip') {
    node.tip = now;
  } else if (name.startsWith('on')) {
    node[name] = now;
  } else if (name === 'style') {
    setStyle(node, before ?? {}, now ?? {});
  } else if (name === 'checked') {
    node.checked = Boolean(now);
  } else if (now === null || now === undefined || now === false) {
    node.removeAttribute(name);
  } else {
    node.setAttribute(name, now === true ? '' : String(now));
  }
}

/** Through the object model: a style attribute is what the page's own policy forbids. */
function setStyle(node, before, now) {
  for (const name of Object.keys(before)) {
    if (!(name in now)) node.style.removeProperty(name);
  }
  for (const name of Object.keys(now)) {
    if (before[name] !== now[name]) node.style.setProperty(name, String(now[name]));
  }
}
