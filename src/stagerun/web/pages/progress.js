// How much of a run is done, how fast it goes, and how much of its time is left.

import { h } from './dom.js';
import {
  absolute,
  count,
  counting,
  now,
  percent,
  rate,
  roundSpan,
  secondsBetween,
  short,
  span,
  sumOutcomes,
} from './format.js';
import { percentBar } from './parts.js';
import { OUTCOME, ended, icon } from './words.js';

export function progress({ run, charts }) {
  const over = ended(run.status);
  const pace = charts?.pace ?? {};
  const sums = sumOutcomes(run.stages);
  const flying = run.stages.reduce((sum, stage) => sum + stage.in_flight, 0);
  const waiting = run.stages.reduce((sum, stage) => sum + Math.max(0, stage.waiting), 0);
  const elapsed = secondsBetween(run.started_at ?? run.created_at, run.finished_at);
  const fact = (key, value, word, tone = '', title = null) =>
    h(
      'div',
      { key, class: `fact ${tone}`, title },
      h('span', { class: 'fact-value number' }, value),
      h('span', { class: 'fact-word' }, word),
    );
  return h(
    'div',
    { class: 'progress panel' },
    h(
      'div',
      { class: 'progress-top' },
      h('span', { class: 'percent number' }, percentOf(run, sums, over)),
      h(
        'div',
        { class: 'progress-bar' },
        percentBar(run, sums, 'thick'),
        counts(sums, flying, waiting),
      ),
    ),
    h(
      'div',
      { class: 'facts' },
      !over && fact('rate', rate(pace.items_per_second), 'items finished'),
      !over &&
        fact(
          'left',
          pace.seconds_left === null || pace.seconds_left === undefined
            ? run.percent === null
              ? 'unknown'
              : '–'
            : `~ ${roundSpan(pace.seconds_left)}`,
          'time left',
        ),
      fact(
        'elapsed',
        run.status === 'queued' ? '–' : over ? span(elapsed) : counting(elapsed),
        over ? 'took' : 'elapsed',
        '',
        absolute(run.started_at),
      ),
      deadline(run, over, fact),
      run.source_length !== null &&
        run.source_length !== undefined &&
        fact('length', count(run.source_length), 'source items'),
      run.step && !over && fact('step', run.step, 'step'),
      run.error?.code &&
        over &&
        run.error.code !== run.cause &&
        fact('code', run.error.code, 'error', 't-bad'),
    ),
  );
}

/** Where the length of the source is unknown no percentage would be true: then what is done. */
function percentOf(run, sums, over) {
  if (run.percent !== null) return percent(run.percent, 1);
  if (over) return '–';
  return [short(Object.values(sums).reduce((sum, n) => sum + n, 0)), h('small', {}, 'outcomes')];
}

function counts(sums, flying, waiting) {
  const entries = [...Object.entries(sums), ['in_flight', flying], ['waiting', waiting]];
  return h(
    'ul',
    { class: 'counts' },
    entries
      .filter(([name, n]) => n > 0 || name === 'ok')
      .map(([name, n]) => {
        const { word, shape, tone } = OUTCOME[name];
        return h('li', { key: name, class: `t-${tone}` }, icon(shape), h('b', {}, count(n)), word);
      }),
  );
}

/** How much of its time is left, as a clock that runs down. */
function deadline(run, over, fact) {
  if (!run.deadline_at) return fact('deadline', 'none', 'run deadline');
  const whole = Math.round(secondsBetween(run.started_at ?? run.created_at, run.deadline_at));
  if (over) return fact('deadline', span(whole), 'run deadline');
  const left = (Date.parse(run.deadline_at) - now()) / 1000;
  const tone = left < 0.1 * whole ? 't-bad' : left < 0.25 * whole ? 't-late' : '';
  return h(
    'div',
    { key: 'deadline', class: `fact ${tone}`, title: absolute(run.deadline_at) },
    h('span', { class: 'fact-value number' }, left > 0 ? counting(left) : 'now'),
    h('span', { class: 'fact-word' }, 'to its deadline'),
    h(
      'span',
      { class: 'countdown', 'aria-hidden': 'true' },
      h('i', { style: { width: `${Math.max(0, Math.min(100, (100 * left) / whole))}%` } }),
    ),
  );
}
