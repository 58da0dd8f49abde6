// How the earlier generations of a resumed run ended.

import { h } from './dom.js';
import { words } from './format.js';
import { STATUSES, look } from './words.js';

export function history(run) {
  if (!run.generations?.length) return null;
  return h(
    'section',
    { class: 'panel', 'aria-labelledby': 'h-history', key: 'history' },
    h('header', { class: 'panel-head' }, h('h2', { id: 'h-history' }, 'Earlier generations')),
    h(
      'ol',
      { class: 'history' },
      run.generations.map((each) => {
        const { tone, word } = look(STATUSES, each.status);
        return h(
          'li',
          { key: each.generation, class: `t-${tone}` },
          h('b', {}, `${each.generation}. ${word}`),
          h('span', { class: 'quiet' }, words(each.cause)),
          h('p', {}, each.message),
        );
      }),
    ),
  );
}
