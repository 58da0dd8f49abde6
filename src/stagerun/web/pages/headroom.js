// Each stage's durations against its deadline: which deadline is too tight, and which is only wide.

import { measured, picture, scale, timeTicks } from './charts.js';
import { h } from './dom.js';
import { count, plural, roundSpan, span } from './format.js';
import { panel } from './parts.js';
import { lines } from './tips.js';
import { icon } from './words.js';

const HEIGHT = 58;
const SHOWN = 12;
const MARKS = [
  ['p50', 'p50'],
  ['p99', 'p99'],
];

export function headroomPanel(state, act) {
  const stages = (state.charts?.stages ?? []).filter((stage) => stage.count > 0);
  if (!stages.length) return null;
  const tightest = [...stages].sort((a, b) => urgency(b) - urgency(a)).slice(0, SHOWN);
  const shown = stages.filter((stage) => tightest.includes(stage));
  return panel(
    'headroom',
    'Deadlines and headroom',
    stages.length > SHOWN &&
      h('span', { class: 'quiet' }, `the ${SHOWN} tightest of ${stages.length} stages`),
    h(
      'ul',
      { class: 'headroom' },
      shown.map((stage) =>
        h(
          'li',
          { key: stage.name },
          h(
            'div',
            { class: 'headroom-says' },
            h('strong', { class: 'cut', title: stage.name }, stage.name),
            says(stage),
          ),
          h(
            'div',
            {
              class: 'picture-box',
              mount: measured(state.widths, `headroom ${stage.name}`, act.redraw),
            },
            histogram(stage, state.widths[`headroom ${stage.name}`] ?? 460),
          ),
        ),
      ),
    ),
  );
}

function used(stage) {
  return stage.deadline && stage.p99 !== null ? stage.p99 / stage.deadline : 0;
}

function urgency(stage) {
  return used(stage) + (stage.timed_out ? 10 : 0);
}

/** In words, since a picture does not say what to do. */
function says(stage) {
  if (!stage.deadline) {
    return h(
      'p',
      { class: 'quiet' },
      `p99 ${span(stage.p99)}, longest ${span(stage.longest)}; no deadline is set.`,
    );
  }
  const share = Math.round(100 * used(stage));
  const cut = stage.timed_out ? `${plural(stage.timed_out, 'item')} timed out. ` : '';
  if (!stage.timed_out && share < 80) {
    return h(
      'p',
      { class: 'quiet' },
      `p99 ${span(stage.p99)} is at ${share || 'less than 1'} % of the deadline of ${span(stage.deadline)}.`,
    );
  }
  const tone = stage.timed_out || share >= 95 ? 'bad' : 'late';
  // When nearly all are far from it, a wider deadline would help nobody.
  const few = stage.timed_out && stage.p90 < 0.5 * stage.deadline;
  const end = few
    ? `9 of 10 need at most ${span(stage.p90)} of ${span(stage.deadline)}: those few hang.`
    : `p99 is at ${share} % of the deadline of ${span(stage.deadline)}: it is too tight, or the work too slow.`;
  return h('p', { class: `mark wraps t-${tone}` }, icon('warning'), h('span', {}, cut, end));
}

function histogram(stage, width) {
  const { edges, counts } = stage.histogram;
  const beyond = stage.deadline && stage.deadline > 2.5 * stage.longest; // it would flatten everything
  const most =
    (beyond || !stage.deadline ? stage.longest : Math.max(stage.longest, stage.deadline)) * 1.04 ||
    0.001;
  const x = scale(0, most, 1, width - 2);
  const tallest = Math.max(1, ...counts);
  const base = HEIGHT - 16;
  // By the square root: the few slow ones are what one looks for here, and must not vanish.
  const y = (n) => (n ? Math.max(2, Math.sqrt(n / tallest) * (base - 12)) : 0);
  const label = `${stage.name}: ${plural(stage.count, 'item')}, p50 ${span(stage.p50)}, p99 ${span(stage.p99)}`;
  return picture(
    label,
    width,
    HEIGHT,
    h('line', { key: 'base', class: 'base', x1: 0, x2: width, y1: base + 0.5, y2: base + 0.5 }),
    counts.map(
      (n, i) =>
        n > 0 &&
        h('rect', {
          key: i,
          class: `tipped ${stage.deadline && edges[i] >= stage.deadline * 0.999 ? 'f-late' : 'f-run'}`,
          x: x(edges[i]),
          width: Math.max(1.5, x(edges[i + 1] ?? edges[i]) - x(edges[i]) - 1),
          y: base - y(n),
          height: y(n),
          tip: () =>
            lines(stage.name, [
              ['items', count(n)],
              ['took', `${span(edges[i])} to ${span(edges[i + 1])}`],
              ['of all', `${((100 * n) / Math.max(1, stage.count)).toFixed(1)} %`],
            ]),
        }),
    ),
    MARKS.map(
      ([key, word]) =>
        stage[key] !== null &&
        h(
          'g',
          { key, class: 'quantile' },
          h('line', { x1: x(stage[key]), x2: x(stage[key]), y1: 10, y2: base }),
          h(
            'text',
            {
              x: x(stage[key]) + (x(stage[key]) > width - 34 ? -3 : 3),
              y: 10,
              'text-anchor': x(stage[key]) > width - 34 ? 'end' : 'start',
            },
            key === 'p50' && near(stage, x) ? '' : word,
          ),
        ),
    ),
    timeTicks(most, Math.max(2, Math.floor(width / 120)))
      .filter((value) => !beyond || x(value) < width - 130)
      .map((value) =>
        h(
          'text',
          {
            key: `t${value}`,
            class: 'axis-text',
            x: x(value),
            y: HEIGHT - 3,
            'text-anchor': value === 0 ? 'start' : x(value) > width - 30 ? 'end' : 'middle',
          },
          value ? roundSpan(value) : '0',
        ),
      ),
    stage.deadline &&
      (beyond
        ? h(
            'text',
            { key: 'far', class: 'far', x: width - 2, y: HEIGHT - 3, 'text-anchor': 'end' },
            `deadline ${span(stage.deadline)} →`,
          )
        : h(
            'g',
            { key: 'deadline', class: 'deadline' },
            h('line', { x1: x(stage.deadline), x2: x(stage.deadline), y1: 2, y2: base }),
          )),
  );
}

/** Two marks that stand together get one word. */
function near(stage, x) {
  return x(stage.p99) - x(stage.p50) < 30;
}
