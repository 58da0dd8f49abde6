// One run as a row of the list.

import { h } from './dom.js';
import { counting, percent, secondsBetween, span, sumOutcomes } from './format.js';
import { labelChip, percentBar, since } from './parts.js';
import { STATUSES, VERDICTS, look, shownStatus, statusMark, verdictBadge } from './words.js';

export function table(runs, act) {
  return h(
    'div',
    { class: 'runs' },
    h(
      'div',
      { class: 'row row-head', 'aria-hidden': 'true' },
      ['Status', 'Run', 'Progress', 'Started', 'Took'].map((title) =>
        h('span', { key: title }, title),
      ),
    ),
    h(
      'ol',
      { class: 'rows' },
      runs.map((run) => row(run, act)),
    ),
  );
}

function row(run, act) {
  const status = shownStatus(run);
  const verdict = VERDICTS[run.verdict];
  const active = run.finished_at === null;
  const took = secondsBetween(run.started_at ?? run.created_at, run.finished_at);
  const tone = verdict?.tone ?? look(STATUSES, status).tone;
  const says = run.message || (active && run.step ? `in ${run.step}` : '');
  return h(
    'li',
    { key: run.id, class: `row t-${tone} ${verdict ? 'loud' : ''} ${active ? 'active' : ''}` },
    h('div', { class: 'row-status' }, statusMark(status), verdictBadge(run.verdict)),
    h(
      'div',
      { class: 'row-main' },
      h(
        'div',
        { class: 'row-title' },
        h('a', { class: 'row-link', href: `#/runs/${run.id}` }, run.pipeline),
        h('code', { class: 'id' }, run.id.slice(0, 8)),
        run.generation > 1 &&
          h('span', { class: 'quiet', title: 'resumed' }, `gen. ${run.generation}`),
        Object.entries(run.labels ?? {}).map(([name, value]) => labelChip(name, value, act.pick)),
      ),
      h(
        'div',
        { class: 'row-says' },
        active && run.step && run.message ? h('b', {}, `${run.step}: `) : null,
        says,
      ),
    ),
    h(
      'div',
      { class: 'row-progress' },
      percentBar(run, run.outcomes ?? (run.stages && sumOutcomes(run.stages)), 'slim'),
      h(
        'span',
        { class: 'number' },
        run.percent === null ? (active ? '…' : '–') : percent(run.percent),
      ),
    ),
    h('div', { class: 'row-age' }, since(run.created_at)),
    h(
      'div',
      { class: 'row-took number' },
      run.status === 'queued' ? '–' : active ? counting(took) : span(took),
    ),
  );
}
