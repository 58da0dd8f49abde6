// Every item as a bar on the run's clock: stage by stage, in as many lanes as worked at once.
//
// Solid is work, the thin line before it the wait for a worker, a notch at its end a retry.

import { legend, measured, picture, scale, timeAxis } from './charts.js';
import { h } from './dom.js';
import { plural, span } from './format.js';
import { panel } from './parts.js';
import { cut } from './throughput.js';
import { lines } from './tips.js';
import { OUTCOME, look } from './words.js';

const HEADING = 17; // above the lanes of each stage
const TALL = 520; // what all lanes may need before they get thinner

export function timelinePanel(state, act) {
  const data = state.charts?.timeline;
  const items = data?.items ?? [];
  const shown = [
    ...new Set(items.map((item) => (item.ended === null ? 'in_flight' : item.outcome))),
  ];
  const aside = items.length > 0 && [
    legend(
      [
        ...shown.map((name) => [look(OUTCOME, name).tone, look(OUTCOME, name).word]),
        items.some(waited) && ['line', 'waits'],
        items.some((item) => item.attempts > 1) && ['notch', 'retried'],
      ].filter(Boolean),
    ),
    data.sampled &&
      h(
        'span',
        { class: 'quiet', key: 'sampled' },
        `${plural(items.length, 'bar')} of many: a sample`,
      ),
  ];
  return panel(
    'timeline',
    'Timeline of items',
    aside,
    h(
      'div',
      { class: 'picture-box tall', mount: measured(state.widths, 'timeline', act.redraw) },
      items.length
        ? lanes(data, items, state)
        : h('p', { class: 'quiet' }, state.charts ? 'No item has begun yet.' : 'Loading…'),
    ),
  );
}

function waited(item) {
  return (
    item.queued_at !== null && item.queued_at !== undefined && item.began - item.queued_at > 0.05
  );
}

function lanes(data, items, { widths, run }) {
  const width = widths.timeline ?? 900;
  const now = Math.max(
    0.001,
    (Date.parse(data.end) - Date.parse(data.start)) / 1000,
    ...items.map((item) => item.ended ?? item.began),
  );
  const stages = packed(
    items,
    now,
    run.stages.map((stage) => stage.name),
  );
  const all = stages.reduce((sum, stage) => sum + stage.lanes, 0);
  const headings = stages.length <= 16;
  const above = headings ? HEADING : 3;
  const lane = Math.max(
    2,
    Math.min(12, Math.floor((TALL - above * stages.length) / Math.max(1, all))),
  );
  const x = scale(0, now, 1, width - 2);
  let top = 0;
  const groups = stages.map((stage) => {
    const group = band(stage, top, { x, lane, width, above, headings });
    top += above + stage.lanes * lane;
    return group;
  });
  const label = `Timeline: ${plural(items.length, 'attempted item')} over ${span(now)}. Arrow keys go from item to item.`;
  return picture(label, width, top + 22, timeAxis(x, now, 0, top, width), groups);
}

/** Put each stage's bars into as few lanes as hold them without overlap. */
function packed(items, now, order) {
  const stages = new Map(order.map((name) => [name, []]));
  for (const item of items) {
    if (!stages.has(item.stage)) stages.set(item.stage, []);
    stages.get(item.stage).push(item);
  }
  return [...stages]
    .filter(([, own]) => own.length)
    .map(([name, own]) => {
      const free = []; // when each lane is free again
      const bars = own
        .sort((a, b) => a.began - b.began || a.item - b.item)
        .map((item) => {
          const end = item.ended ?? now;
          let lane = free.findIndex((until) => until <= item.began + 1e-6);
          if (lane < 0) lane = free.length;
          const since = free[lane] ?? 0;
          free[lane] = end;
          return { ...item, lane, end, since };
        });
      return { name, bars, lanes: free.length };
    });
}

function band({ name, bars, lanes: deep }, top, { x, lane, width, above, headings }) {
  const thick = lane > 4 ? lane - 2 : Math.max(1, lane - 0.5);
  const floor = top + above;
  return h(
    'g',
    { key: name },
    headings &&
      h('text', { class: 'strip-name', x: 2, y: top + 12 }, cut(name, Math.floor(width / 9))),
    h('rect', { class: 'band', x: 0, y: floor, width, height: deep * lane }),
    bars.map((bar) => {
      const { tone, word } = look(OUTCOME, bar.ended === null ? 'in_flight' : bar.outcome);
      const y = floor + bar.lane * lane + (lane - thick) / 2;
      const from = x(bar.began);
      const long = Math.max(1.5, x(bar.end) - from - 0.5);
      // The wait is drawn in the gap before the bar only, so that it never crosses another's work.
      const wait = waited(bar) ? x(Math.max(bar.queued_at, bar.since)) : from;
      return h(
        'g',
        {
          key: `${bar.item}/${bar.began}`,
          class: 'tipped',
          tip: () =>
            lines(`${name}, item ${bar.item}`, [
              ['outcome', word],
              ['worked', span(bar.end - bar.began)],
              ['waited before', waited(bar) ? span(bar.began - bar.queued_at) : null],
              ['attempts', bar.attempts > 1 ? bar.attempts : null],
              ['began', `+${span(bar.began)}`],
              ['ended', bar.ended === null ? 'not yet' : `+${span(bar.ended)}`],
            ]),
        },
        from - wait > 1 &&
          h('line', { class: 'waits', x1: wait, x2: from, y1: y + thick / 2, y2: y + thick / 2 }),
        h('rect', {
          class: `f-${tone} ${bar.ended === null ? 'open' : ''}`,
          x: from,
          y,
          width: long,
          height: thick,
          rx: Math.min(2, thick / 3),
        }),
        bar.attempts > 1 && notches(bar, from, long, y, thick),
      );
    }),
  );
}

/** One mark for each attempt after the first, as far as there is room. */
function notches(bar, from, long, y, thick) {
  const n = Math.min(bar.attempts - 1, Math.floor(long / 5), 6);
  return Array.from({ length: Math.max(n, long > 3 ? 1 : 0) }, (_, place) =>
    h('rect', {
      key: place,
      class: 'notch',
      x: from + ((place + 1) * long) / (Math.max(n, 1) + 1) - 0.75,
      y,
      width: 1.5,
      height: thick,
    }),
  );
}
