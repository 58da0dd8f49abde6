// What pictures share: scales, ticks and axes. Widths are measured, so that text keeps its size.

import { h } from './dom.js';
import { roundSpan } from './format.js';

const STEPS = [1, 2, 5];
const TIME_STEPS = [
  1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 43_200, 86_400,
];

export function scale(from, to, low, high) {
  const factor = to > from ? (high - low) / (to - from) : 0;
  return (value) => low + (value - from) * factor;
}

/** Round values from 0 to `seconds`, about `wanted` of them. */
export function timeTicks(seconds, wanted = 6) {
  const raw = seconds / wanted;
  const step = raw < 1 ? niceStep(raw) : (TIME_STEPS.find((each) => each >= raw) ?? niceStep(raw));
  const values = [];
  for (let value = 0; value <= seconds * 1.0001 && step > 0; value += step) {
    values.push(Number(value.toPrecision(12)));
  }
  return values;
}

function niceStep(raw) {
  const power = 10 ** Math.floor(Math.log10(raw));
  return (STEPS.find((each) => each * power >= raw * 0.999) ?? 10) * power;
}

/** A time axis below a picture: offsets from its start. */
export function timeAxis(x, seconds, top, height, width) {
  return h(
    'g',
    { key: 'axis', class: 'axis', 'aria-hidden': 'true' },
    timeTicks(seconds, Math.max(2, Math.floor(width / 110))).map((value) =>
      h(
        'g',
        { key: value },
        h('line', { x1: x(value), x2: x(value), y1: top, y2: top + height, class: 'grid' }),
        h(
          'text',
          {
            x: x(value),
            y: top + height + 14,
            'text-anchor': value === 0 ? 'start' : x(value) > width - 24 ? 'end' : 'middle',
          },
          value === 0 ? '0' : `+${roundSpan(value)}`,
        ),
      ),
    ),
  );
}

/** Remember how wide a picture may be, and draw again when that changes. */
export function measured(widths, name, redraw) {
  return (element) => {
    const observer = new ResizeObserver(([entry]) => {
      if (!element.isConnected) {
        observer.disconnect();
        return;
      }
      const width = Math.floor(entry.contentRect.width);
      if (width && widths[name] !== width) {
        widths[name] = width;
        redraw();
      }
    });
    observer.observe(element);
  };
}

/** A picture with marks: one stop of the Tab key, arrows inside. */
export function picture(label, width, height, ...content) {
  return h(
    'svg',
    {
      class: 'picture',
      viewBox: `0 0 ${width} ${height}`,
      width,
      height,
      role: 'img',
      'aria-label': label,
      tabindex: 0,
      'data-marks': true,
    },
    content,
  );
}

/** What the colours mean. entries: [[tone, word]] */
export function legend(entries) {
  return h(
    'ul',
    { class: 'legend', 'aria-hidden': 'true' },
    entries.map(([tone, word]) => h('li', { key: word }, h('i', { class: `f-${tone}` }), word)),
  );
}
