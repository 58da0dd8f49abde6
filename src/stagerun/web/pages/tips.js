// One tooltip for all pictures: by pointer, by touch and by keyboard.
//
// A mark is any element with a `tip` (a function that returns values for draw()). A picture that
// holds marks and has `data-marks` is one stop of the Tab key; arrows go from mark to mark in it.

import { draw, h } from './dom.js';

let box = null;
let current = null;

export function startTips() {
  box = document.createElement('div');
  box.className = 'tip';
  box.setAttribute('role', 'status');
  box.hidden = true;
  document.body.append(box);
  document.addEventListener('pointerover', (event) => show(marked(event.target), event));
  document.addEventListener('pointermove', (event) => {
    if (current && event.pointerType === 'mouse') place(event.clientX, event.clientY);
  });
  document.addEventListener('pointerdown', (event) => show(marked(event.target), event));
  document.addEventListener(
    'scroll',
    (event) => {
      if (current && event.target.contains(current)) hide(); // not when the log goes on elsewhere
    },
    { passive: true, capture: true },
  );
  document.addEventListener('focusout', hide);
  document.addEventListener('keydown', walk);
}

export function hide() {
  current?.classList.remove('current');
  current = null;
  if (box) box.hidden = true;
}

/** Lines of a tip: a title and pairs of what and how much. */
export function lines(title, pairs, note = null) {
  return [
    h('strong', {}, title),
    h(
      'dl',
      {},
      pairs
        .filter(([, value]) => value !== null && value !== undefined && value !== '')
        .map(([name, value]) => h('div', { key: name }, h('dt', {}, name), h('dd', {}, value))),
    ),
    note && h('p', {}, note),
  ];
}

function marked(element) {
  for (let each = element; each instanceof Element; each = each.parentNode) {
    if (each.tip) return each;
  }
  return null;
}

function show(mark, event = null) {
  if (mark === current) return;
  hide();
  if (!mark) return;
  current = mark;
  mark.classList.add('current');
  box.hidden = false;
  draw(box, mark.tip());
  const { left, top, width, height } = mark.getBoundingClientRect();
  if (event) place(event.clientX, event.clientY);
  else place(left + width / 2, top + height);
}

function place(x, y) {
  const { offsetWidth: width, offsetHeight: height } = box;
  const below = y + 16 + height < innerHeight;
  box.style.setProperty('left', `${Math.max(8, Math.min(x + 12, innerWidth - width - 8))}px`);
  box.style.setProperty('top', `${Math.max(8, below ? y + 16 : y - height - 12)}px`);
}

function walk(event) {
  if (event.key === 'Escape') {
    hide();
    return;
  }
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  const picture = event.target.closest?.('[data-marks]');
  if (!picture || !(step || event.key === 'Enter')) return;
  const marks = [...picture.querySelectorAll('.tipped')];
  if (event.key === 'Enter') {
    current?.onclick?.(event);
    return;
  }
  event.preventDefault();
  const at = marks.indexOf(current);
  const next = at < 0 ? (step > 0 ? 0 : marks.length - 1) : at + step;
  if (marks[next]) show(marks[next]);
}
