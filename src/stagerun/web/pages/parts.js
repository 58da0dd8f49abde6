// Small pieces that more than one page uses.

import { askAgain } from './api.js';
import { h } from './dom.js';
import { OUTCOMES, absolute, ago, count, percent, plural } from './format.js';
import { OUTCOME, icon, look } from './words.js';

/**
 * One bar of coloured parts: [{ name, n }], as wide as its share of `total`. The rest is track.
 * A part of one among thousands keeps a visible width: one failure must not vanish.
 */
export function bar(parts, total, label, extra = '') {
  const shown = parts.filter((part) => part.n > 0);
  const rest = Math.max(0, total - shown.reduce((sum, part) => sum + part.n, 0));
  return h(
    'div',
    { class: `bar ${extra}`, role: 'img', 'aria-label': label },
    shown.map((part) =>
      h('i', {
        key: part.name,
        class: `f-${look(OUTCOME, part.name).tone} ${part.name === 'in_flight' ? 'moving' : ''}`,
        style: { 'flex-grow': part.n },
      }),
    ),
    h('i', { key: 'rest', class: 'rest', style: { 'flex-grow': rest } }),
  );
}

/** A run's percent as a bar whose filled part has the colours of its items' outcomes. */
export function percentBar(run, outcomes, extra = '') {
  const sums = outcomes ?? {};
  const settled = OUTCOMES.reduce((sum, name) => sum + (sums[name] ?? 0), 0);
  const active = run.finished_at === null;
  if (run.percent === null && active) {
    const label = `length unknown, ${plural(settled, 'outcome')} so far`;
    return h(
      'div',
      { class: `bar unknown ${extra}`, role: 'img', 'aria-label': label },
      h('i', {}),
    );
  }
  const value = run.percent ?? 0;
  const parts = settled
    ? OUTCOMES.map((name) => ({ name, n: ((sums[name] ?? 0) / settled) * value }))
    : [{ name: active ? 'in_flight' : ENDING[run.status], n: value }];
  return bar(parts, 100, `${percent(value, 1)} done${said(sums)}`, extra);
}

const ENDING = {
  succeeded: 'ok',
  failed: 'failed',
  timed_out: 'timed_out',
  cancelled: 'cancelled',
  interrupted: 'crashed',
};

function said(sums) {
  return OUTCOMES.filter((name) => sums[name])
    .map((name) => `, ${count(sums[name])} ${OUTCOME[name].word}`)
    .join('');
}

/** A label of a run; a click filters by it. */
export function labelChip(name, value, onPick) {
  const text = [h('span', { class: 'chip-name' }, name), h('span', { class: 'chip-value' }, value)];
  if (!onPick) return h('span', { class: 'chip', key: name }, text);
  return h(
    'button',
    {
      class: 'chip',
      key: name,
      type: 'button',
      title: `Show runs with ${name}=${value}`,
      onclick: () => onPick(name, value),
    },
    text,
  );
}

export function since(moment, before = '') {
  return h('time', { datetime: moment, title: absolute(moment) }, `${before}${ago(moment)}`);
}

/** A section with a heading, and what stands at its right. */
export function panel(id, title, aside, ...content) {
  return h(
    'section',
    { class: `panel panel-${id}`, 'aria-labelledby': `h-${id}`, key: id },
    h(
      'header',
      { class: 'panel-head' },
      h('h2', { id: `h-${id}` }, title),
      h('div', { class: 'panel-aside' }, aside),
    ),
    content,
  );
}

/** What has gone wrong in fetching, in words; the page goes on. */
export function trouble(problem, onRetry = null) {
  if (!problem) return null;
  return h(
    'p',
    { class: 'trouble t-bad', role: 'alert' },
    icon('warning'),
    h('span', {}, problem.message),
    onRetry &&
      h(
        'button',
        {
          type: 'button',
          class: 'button small',
          onclick: () => {
            askAgain();
            onRetry();
          },
        },
        'Try again',
      ),
  );
}

export function empty(...content) {
  return h('div', { class: 'empty' }, content);
}

export function select(label, options, chosen, onChoose) {
  return h(
    'label',
    { class: 'select' },
    h('span', { class: 'visually-hidden' }, label),
    h(
      'select',
      { value: chosen, onchange: (event) => onChoose(event.target.value) },
      options.map(([value, text]) => h('option', { key: value, value }, text)),
    ),
  );
}
