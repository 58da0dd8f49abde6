// What went wrong, like with like: the most frequent first.

import { h } from './dom.js';
import { count, plural, words } from './format.js';
import { panel, since } from './parts.js';
import { outcomeMark } from './words.js';

const SHOWN = 8;

export function errorsPanel(charts, run, act) {
  const groups = charts?.errors ?? [];
  const all = groups.reduce((sum, group) => sum + group.count, 0);
  if (!groups.length) {
    if (!charts || run.finished_at === null) return null;
    return panel('errors', 'Errors', null, h('p', { class: 'quiet' }, 'Nothing went wrong.'));
  }
  const most = groups[0].count;
  return panel(
    'errors',
    'Errors',
    h('span', { class: 'quiet' }, `${count(all)} in ${plural(groups.length, 'sort')}`),
    h(
      'ol',
      { class: 'errors' },
      groups.slice(0, SHOWN).map((group) => row(group, most, act)),
    ),
    groups.length > SHOWN &&
      h('p', { class: 'quiet' }, `and ${groups.length - SHOWN} rarer sorts: see the items.`),
  );
}

function row(group, most, act) {
  const { stage, outcome, cause, error, message, first_item: first } = group;
  return h(
    'li',
    { key: `${stage}/${outcome}/${cause}/${error}/${message}` },
    h(
      'button',
      {
        type: 'button',
        class: 'error-row',
        title: 'Show these items',
        onclick: () => act.errors(group),
      },
      h('span', { class: 'error-count number' }, count(group.count)),
      h(
        'span',
        { class: 'error-body' },
        h(
          'span',
          { class: 'error-head' },
          outcomeMark(outcome),
          h('b', {}, stage),
          h('code', {}, error ?? words(cause)),
        ),
        h('span', { class: 'error-message' }, message || words(cause)),
        h(
          'span',
          { class: 'error-foot quiet' },
          `first: item ${first}`,
          group.last_at && ' · last ',
          group.last_at && since(group.last_at),
        ),
        h('span', {
          class: 'error-share',
          'aria-hidden': 'true',
          style: { width: `${(100 * group.count) / most}%` },
        }),
      ),
    ),
  );
}
