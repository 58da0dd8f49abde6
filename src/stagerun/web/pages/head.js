// The head of a run's page: which run it is, how it stands, and what can be done about it.

import { h } from './dom.js';
import { count } from './format.js';
import { labelChip, since } from './parts.js';
import { progress } from './progress.js';
import { reason } from './reason.js';
import { ended, icon, shownStatus, statusMark, verdictBadge } from './words.js';

const RESUMABLE = new Set(['failed', 'cancelled', 'timed_out', 'interrupted']);
const LOST = ['failed', 'timed_out', 'crashed'];

export function head(state, act) {
  const { run } = state;
  return h(
    'section',
    { class: 'head', 'aria-label': 'The run' },
    h(
      'div',
      { class: 'title-row' },
      h(
        'div',
        { class: 'title' },
        h(
          'p',
          { class: 'crumb' },
          h('a', { href: '#/' }, 'Runs'),
          ' / ',
          h('a', { href: `#/pipelines/${encodeURIComponent(run.pipeline)}` }, run.pipeline),
        ),
        h(
          'div',
          { class: 'title-line' },
          h('h1', { class: 'page-title' }, run.pipeline),
          h('span', { class: 'status-big' }, statusMark(shownStatus(run))),
          verdictBadge(run.verdict),
          connection(state.connection),
        ),
        h(
          'p',
          { class: 'title-facts' },
          identifier(run.id),
          h('span', {}, since(run.created_at, 'started ')),
          run.generation > 1 && h('span', {}, `generation ${run.generation}`),
          Object.entries(run.labels ?? {}).map(([name, value]) => labelChip(name, value, byLabel)),
        ),
      ),
      actions(state, act),
    ),
    reason(state),
    progress(state),
  );
}

function byLabel(name, value) {
  location.hash = `#/?${new URLSearchParams({ label: `${name}:${value}` })}`;
}

function identifier(id) {
  return h(
    'button',
    {
      class: 'id copy',
      type: 'button',
      title: 'Copy the identifier',
      onclick: (event) => copy(event.currentTarget, id),
    },
    h('code', {}, id),
  );
}

async function copy(button, id) {
  try {
    await navigator.clipboard.writeText(id);
    button.dataset.copied = 'true';
    setTimeout(() => delete button.dataset.copied, 1200);
  } catch {
    /* not allowed here: the text can be selected */
  }
}

const CONNECTIONS = {
  connecting: ['wait', 'connecting'],
  live: ['ok', 'live'],
  reconnecting: ['late', 'reconnecting'],
  ended: ['wait', 'ended'],
};

function connection(name) {
  const [tone, word] = CONNECTIONS[name];
  return h(
    'span',
    {
      class: `connection t-${tone}`,
      role: 'status',
      title: "The stream of this run's events",
      'data-connection': name,
    },
    icon('dot', name === 'live' ? 'beats' : ''),
    word,
  );
}

function actions({ run, doing }, act) {
  const over = ended(run.status) || run.verdict === 'dead';
  const lost = run.stages.reduce(
    (sum, stage) => sum + LOST.reduce((n, name) => n + stage[name], 0),
    0,
  );
  const button = (name, text, shape, on, extra, why) =>
    h(
      'button',
      {
        key: name,
        type: 'button',
        class: `button ${extra}`,
        disabled: !on || doing !== null,
        title: why,
        onclick: () => (name === 'cancel' ? act.cancel() : act.resume(name === 'failed')),
      },
      icon(shape),
      doing === name ? 'Asking…' : text,
    );
  return h(
    'div',
    { class: 'actions', role: 'group', 'aria-label': 'What can be done' },
    button(
      'cancel',
      run.requested_at && !over ? 'Cancelling' : 'Cancel',
      'stop',
      !over,
      'danger',
      over ? 'It has ended' : 'Stop its work (c)',
    ),
    button(
      'resume',
      'Resume',
      'again',
      over && RESUMABLE.has(run.status),
      '',
      over ? 'Go on with what has no final outcome' : 'It has not ended',
    ),
    button(
      'failed',
      lost ? `Resume ${count(lost)} failed` : 'Resume failed',
      'again',
      over && lost > 0,
      '',
      lost ? 'Go on, and repeat what failed, timed out or crashed too' : 'Nothing has failed',
    ),
  );
}
