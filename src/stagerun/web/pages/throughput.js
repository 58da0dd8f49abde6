// Items that ended per moment, stage below stage on one clock: a stall is a gap, a bottleneck a step.

import { measured, picture, scale, timeAxis } from './charts.js';
import { h } from './dom.js';
import { count, plural, rate, span } from './format.js';
import { panel, select } from './parts.js';
import { lines } from './tips.js';

const EACH = 5; // so many stages have a strip of their own; of more, one is chosen
const ALL = '';

export function throughputPanel(state, act) {
  const names = Object.keys(state.charts?.throughput?.stages ?? {});
  const width = state.widths.throughput ?? 700;
  const some = names.some((name) => {
    const { ok, bad } = state.charts.throughput.stages[name];
    return add(ok) + add(bad) > 0;
  });
  const data = some ? coarser(state.charts.throughput, names, width) : null;
  const chosen = names.length > EACH ? state.throughputOf : null;
  const aside =
    names.length > EACH &&
    select(
      'Stage',
      [[ALL, 'All stages'], ...names.map((name) => [name, name])],
      state.throughputOf,
      act.throughputOf,
    );
  return panel(
    'throughput',
    'Throughput',
    aside,
    h(
      'div',
      { class: 'picture-box', mount: measured(state.widths, 'throughput', act.redraw) },
      data
        ? strips(data, shownStrips(data, names, chosen), width)
        : h('p', { class: 'quiet' }, state.charts ? 'No item has ended yet.' : 'Loading…'),
    ),
  );
}

/** As many bars as can be told apart, each of enough items to show a height rather than a comb. */
function coarser(data, names, width) {
  const length = Math.max(...names.map((name) => data.stages[name].ok.length));
  const all = names.reduce(
    (sum, name) => sum + add(data.stages[name].ok) + add(data.stages[name].bad),
    0,
  );
  let by = Math.max(1, Math.ceil(length / Math.min(90, width / 7)));
  while (length / by > 24 && all / names.length / (length / by) < 3) by += 1;
  const merge = (numbers) =>
    Array.from({ length: Math.ceil(numbers.length / by) }, (_, i) =>
      add(numbers.slice(i * by, (i + 1) * by)),
    );
  return {
    step: data.step * by,
    stages: Object.fromEntries(
      names.map((name) => [
        name,
        { ok: merge(data.stages[name].ok), bad: merge(data.stages[name].bad) },
      ]),
    ),
  };
}

function shownStrips(data, names, chosen) {
  if (chosen === null) return names.map((name) => ({ name, ...data.stages[name] }));
  if (chosen !== ALL && data.stages[chosen]) return [{ name: chosen, ...data.stages[chosen] }];
  const add = (key) => {
    const sum = [];
    for (const name of names)
      data.stages[name][key].forEach((n, i) => {
        sum[i] = (sum[i] ?? 0) + n;
      });
    return sum;
  };
  return [{ name: 'all stages', ok: add('ok'), bad: add('bad') }];
}

function strips(data, shown, width) {
  const length = Math.max(...shown.map((stage) => stage.ok.length));
  const height = shown.length === 1 ? 120 : 62;
  const whole = height * shown.length + 22;
  const seconds = data.step * length;
  const left = 44;
  const x = scale(0, seconds, left, width - 2);
  const bars = shown.map((stage, place) =>
    strip(stage, place * height, height, { x, data, left, width }),
  );
  const total = shown.reduce((sum, stage) => sum + add(stage.ok) + add(stage.bad), 0);
  return picture(
    `Throughput: ${plural(total, 'outcome')} in ${span(seconds)}, in steps of ${span(data.step)}`,
    width,
    whole,
    timeAxis(x, seconds, 0, whole - 22, width),
    bars,
  );
}

function strip({ name, ok, bad }, top, height, { x, data, left, width }) {
  const most = Math.max(1, ...ok.map((n, i) => n + (bad[i] ?? 0)));
  const y = scale(0, most, 0, height - 22);
  const base = top + height - 4;
  const wide = Math.max(1, x(data.step) - x(0) - 1);
  return h(
    'g',
    { key: name },
    h('text', { class: 'strip-name', x: left + 4, y: top + 12 }, cut(name, Math.floor(width / 9))),
    h(
      'text',
      { class: 'axis-text', x: left - 6, y: top + 20, 'text-anchor': 'end' },
      rate(most / data.step),
    ),
    h('line', { class: 'base', x1: left, x2: width, y1: base + 0.5, y2: base + 0.5 }),
    ok.map((n, i) => {
      const failed = bad[i] ?? 0;
      if (n + failed === 0) return null;
      const from = i * data.step;
      return h(
        'g',
        {
          key: i,
          class: 'tipped',
          tip: () =>
            lines(name, [
              ['ok', count(n)],
              ['not ok', failed ? count(failed) : null],
              ['rate', rate((n + failed) / data.step)],
              ['from', `+${span(from)}`],
              ['to', `+${span(from + data.step)}`],
            ]),
        },
        h('rect', { class: 'hit', x: x(from), y: top + 16, width: wide + 1, height: height - 20 }),
        n > 0 &&
          h('rect', { class: 'f-ok', x: x(from), width: wide, y: base - y(n), height: y(n) }),
        failed > 0 &&
          h('rect', {
            class: 'f-bad',
            x: x(from),
            width: wide,
            y: base - y(n) - Math.max(2, y(failed)),
            height: Math.max(2, y(failed)),
          }),
      );
    }),
  );
}

function add(numbers) {
  return numbers.reduce((sum, n) => sum + n, 0);
}

export function cut(text, most) {
  return text.length > most ? `${text.slice(0, Math.max(1, most - 1))}…` : text;
}
