// What the list of runs looks like: what needs a look, the strip of counts, the filters, the rows.

import { h } from './dom.js';
import { count, plural, short } from './format.js';
import { empty, select, trouble } from './parts.js';
import { table } from './row.js';
import { RUN_STATUSES, STATUSES, VERDICTS, icon, verdictBadge } from './words.js';

export function view(state, act) {
  const rows = shownRuns(state);
  return [
    h('h1', { class: 'visually-hidden' }, 'Runs'),
    attention(state),
    strip(state, act),
    tools(state, act),
    trouble(state.problem, act.retry),
    state.runs === null && !state.problem ? h('p', { class: 'quiet loading' }, 'Loading…') : null,
    rows.length ? table(rows, act) : state.runs && nothing(state, act),
    paging(state, act),
  ];
}

function shownRuns({ runs, text, found }) {
  if (!text) return runs ?? [];
  const wanted = text.toLowerCase();
  const fits = (run) => run.id.startsWith(wanted) || run.pipeline.toLowerCase().startsWith(wanted);
  const shown = (runs ?? []).filter(fits);
  return found && !shown.some((run) => run.id === found.id) ? [found, ...shown] : shown;
}

/** What is not fine comes first, whatever is filtered. */
function attention({ active, reasons }) {
  const troubled = active.filter((run) => VERDICTS[run.verdict]);
  if (!troubled.length) return null;
  return h(
    'ul',
    { class: 'attention', 'aria-label': 'Runs that need a look' },
    troubled
      .slice(0, 5)
      .map((run) =>
        h(
          'li',
          { key: run.id, class: `t-${VERDICTS[run.verdict].tone}` },
          h(
            'a',
            { href: `#/runs/${run.id}` },
            h('span', {}, verdictBadge(run.verdict)),
            h(
              'span',
              { class: 'who' },
              h('strong', {}, run.pipeline),
              h('code', { class: 'id' }, run.id.slice(0, 8)),
            ),
            h(
              'span',
              { class: 'says' },
              reasons.get(run.id)?.summary ?? VERDICTS[run.verdict].says,
            ),
          ),
        ),
      ),
  );
}

/** Counts by status: the strip is the filter, too. */
function strip({ overview, status }, act) {
  const counts = overview?.counts ?? {};
  const all = RUN_STATUSES.reduce((sum, name) => sum + (counts[name] ?? 0), 0);
  const tile = (name, word, shape, tone, n) =>
    h(
      'button',
      {
        key: name,
        type: 'button',
        class: `tile t-${tone} ${n ? '' : 'zero'}`,
        'aria-pressed': String(status === name),
        title: `${count(n)} ${word}`,
        onclick: () => act.choose({ status: status === name ? '' : name }),
      },
      h('span', { class: 'tile-count' }, overview ? short(n) : '–'),
      h('span', { class: 'tile-word' }, icon(shape, name === 'running' && n ? 'beats' : ''), word),
    );
  return h(
    'div',
    { class: 'strip', role: 'group', 'aria-label': 'Runs by status' },
    tile('', 'all runs', 'ring', 'all', all),
    RUN_STATUSES.map((name) => {
      const { word, shape, tone } = STATUSES[name];
      return tile(name, word, shape, tone, counts[name] ?? 0);
    }),
  );
}

function tools(state, act) {
  const startable = state.pipelines.some((each) => each.startable);
  const names = state.pipelines.map((each) => [each.name, each.name]);
  const labels = state.names.flatMap(({ name, values }) =>
    values.map((value) => [`${name}:${value}`, `${name}: ${value}`]),
  );
  return h(
    'div',
    { class: 'tools' },
    h(
      'label',
      { class: 'search' },
      h('span', { class: 'visually-hidden' }, 'Filter by id or pipeline'),
      h('input', {
        type: 'search',
        'data-filter': true,
        placeholder: 'Id or pipeline…',
        autocomplete: 'off',
        spellcheck: 'false',
        oninput: (event) => act.type(event.target.value),
        onkeydown: (event) => {
          if (event.key === 'Enter') openFirst(state);
        },
      }),
      h('kbd', {}, '/'),
    ),
    select('Pipeline', [['', 'All pipelines'], ...names], state.pipeline, (pipeline) =>
      act.choose({ pipeline }),
    ),
    select('Label', [['', labels.length ? 'Any label' : 'No labels'], ...labels], '', (label) => {
      if (label) act.choose({ labels: [...new Set([...state.labels, label])] });
    }),
    state.labels.map((label) =>
      h(
        'button',
        {
          key: label,
          type: 'button',
          class: 'chip picked',
          title: 'Remove this filter',
          onclick: () => act.drop(label),
        },
        label.replace(':', ' = '),
        h('span', { 'aria-hidden': 'true' }, ' ×'),
      ),
    ),
    h('span', { class: 'grow' }),
    startable &&
      h(
        'button',
        { type: 'button', class: 'button primary', onclick: act.start },
        icon('play'),
        h('span', {}, 'Start', h('span', { class: 'wide-only' }, ' a run')),
      ),
  );
}

function openFirst(state) {
  const [first] = shownRuns(state);
  if (first) location.hash = `#/runs/${first.id}`;
}

function nothing(state, act) {
  const filtered =
    state.status || state.pipeline || state.labels.length || state.text || state.after;
  if (filtered) {
    return empty(
      h(
        'p',
        {},
        state.text ? `Nothing here begins with “${state.text}”.` : 'No run fits these filters.',
      ),
      h(
        'button',
        {
          class: 'button',
          type: 'button',
          onclick: () => act.choose({ status: '', pipeline: '', labels: [] }),
        },
        'Show all runs',
      ),
    );
  }
  return empty(
    h('h2', {}, 'No runs yet'),
    h('p', {}, 'Three lines start the first one, from any program that has this database:'),
    h(
      'pre',
      {},
      'async with open_runtime("runs.db") as runtime:\n' +
        '    run = await runtime.start(pipeline, items)\n    result = await run.wait()',
    ),
    h(
      'p',
      { class: 'quiet' },
      'Or from a shell: ',
      h('code', {}, 'stagerun run pipeline.py:pipeline --db runs.db'),
    ),
  );
}

function paging(state, act) {
  if (!state.next && !state.after) return null;
  return h(
    'nav',
    { class: 'paging', 'aria-label': 'Pages of runs' },
    state.after &&
      h('button', { type: 'button', class: 'button', onclick: () => act.choose({}) }, '⇤ Newest'),
    state.after &&
      h('button', { type: 'button', class: 'button', onclick: () => history.back() }, '← Newer'),
    h('span', { class: 'quiet' }, plural(state.runs?.length ?? 0, 'run')),
    state.next &&
      h(
        'button',
        { type: 'button', class: 'button', onclick: () => act.choose({ after: state.next }) },
        'Older →',
      ),
  );
}
