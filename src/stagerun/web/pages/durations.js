// How long the runs of a pipeline took, the newest at the right, with the deadline drawn in.

import { measured, picture, scale, timeTicks } from './charts.js';
import { h } from './dom.js';
import { absolute, roundSpan, secondsBetween, span } from './format.js';
import { panel } from './parts.js';
import { lines } from './tips.js';
import { STATUSES, ended, look } from './words.js';

const LEFT = 52;

export function durationsPanel(state, act) {
  const { durations, run } = state;
  if (!durations) return null;
  // What still runs was longer under way than was last committed: its column grows with the clock.
  const runs = durations.runs.map((each) =>
    each.id === run.id && !run.finished_at
      ? { ...each, seconds: secondsBetween(run.started_at ?? run.created_at) }
      : each,
  );
  return panel(
    'durations',
    `Runs of ${run.pipeline}`,
    h('a', { href: `#/pipelines/${encodeURIComponent(run.pipeline)}` }, 'all'),
    durationsPicture({ ...durations, runs }, run.id, {
      widths: state.widths,
      name: 'durations',
      redraw: act.redraw,
      height: 150,
    }),
  );
}

/** `mine`: the run to mark. The deadline stands in the picture when it does not flatten the bars. */
export function durationsPicture({ runs, deadline }, mine, { widths, name, redraw, height }) {
  const width = widths[name] ?? 420;
  const room = Math.max(8, Math.floor((width - LEFT) / 9));
  const shown = runs.filter((run) => run.seconds !== null).slice(-room);
  const longest = Math.max(0.001, ...shown.map((run) => run.seconds));
  const near = deadline && deadline < 3 * longest;
  const most = Math.max(longest, near ? deadline : 0) * 1.06;
  const bottom = height - 8;
  const y = scale(0, most, bottom, 14);
  const step = Math.min(26, (width - LEFT - 2) / Math.max(1, shown.length));
  const sorted = shown
    .filter((run) => ended(run.status))
    .map((run) => run.seconds)
    .sort((a, b) => a - b);
  const median = sorted[Math.ceil(sorted.length / 2) - 1] ?? null;
  return h(
    'div',
    {},
    h(
      'div',
      { class: 'picture-box', mount: measured(widths, name, redraw) },
      picture(
        `Durations of ${shown.length} runs; half of them took at most ${span(median)}`,
        width,
        height,
        grid(most, y, width),
        shown.map((run, place) => column(run, place, { mine, y, bottom, step, deadline })),
        near &&
          h(
            'g',
            { key: 'deadline', class: 'deadline' },
            h('line', { x1: LEFT, x2: width, y1: y(deadline), y2: y(deadline) }),
            h(
              'text',
              { x: width - 2, y: y(deadline) - 4, 'text-anchor': 'end' },
              `deadline ${span(deadline)}`,
            ),
          ),
      ),
    ),
    h('p', { class: 'picture-says quiet' }, summary(shown, sorted.length, median, deadline, mine)),
  );
}

function grid(most, y, width) {
  return h(
    'g',
    { key: 'grid', class: 'axis', 'aria-hidden': 'true' },
    timeTicks(most, 3).map((value) =>
      h(
        'g',
        { key: value },
        h('line', { class: 'grid', x1: LEFT, x2: width, y1: y(value), y2: y(value) }),
        h(
          'text',
          { x: LEFT - 7, y: y(value) + 4, 'text-anchor': 'end' },
          value ? roundSpan(value) : '0',
        ),
      ),
    ),
  );
}

function column(run, place, { mine, y, bottom, step, deadline }) {
  const { tone, word } = look(STATUSES, run.status);
  const left = LEFT + place * step;
  const own = run.id === mine;
  const top = Math.min(y(run.seconds), bottom - 2);
  return h(
    'g',
    {
      key: run.id,
      class: `tipped ${own ? 'own' : 'other'}`,
      onclick: () => {
        location.hash = `#/runs/${run.id}`;
      },
      tip: () =>
        lines(own ? 'This run' : `Run ${run.id.slice(0, 8)}`, [
          ['status', word],
          ['took', span(run.seconds)],
          ['of its deadline', deadline ? `${Math.round((100 * run.seconds) / deadline)} %` : null],
          ['started', absolute(run.created_at).split(' (')[0]],
        ]),
    },
    h('rect', { class: 'hit', x: left, y: 0, width: step, height: bottom }),
    h('rect', {
      class: `f-${tone}`,
      x: left + 1,
      y: top,
      width: Math.max(2, step - 2),
      height: bottom - top,
      rx: 1.5,
    }),
    own && h('path', { class: 'pointer', d: `M${left + step / 2 - 4} ${bottom + 8}h8l-4-6z` }),
  );
}

function summary(shown, n, median, deadline, mine) {
  if (!n) return `No run has ended yet.${deadline ? ` Deadline: ${span(deadline)}.` : ''}`;
  const own = shown.find((run) => run.id === mine);
  const says = [n > 1 ? `Half of the last ${n} took at most ${span(median)}.` : `It took ${span(median)}.`];
  if (own && median > 0 && n > 4) {
    const factor = own.seconds / median;
    if (factor >= 1.3)
      says.push(`This one: ${span(own.seconds)}, ${factor.toFixed(1)} times that.`);
    else says.push(`This one: ${span(own.seconds)}.`);
  }
  if (deadline) says.push(`Deadline: ${span(deadline)}.`);
  return says.join(' ');
}
