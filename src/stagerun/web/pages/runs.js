// The list of runs: what is under way, what went wrong, and where to look first.

import { every, get } from './api.js';
import { draw, h } from './dom.js';
import { count, counting, percent, plural, secondsBetween, short, span, sumOutcomes } from './format.js';
import { empty, labelChip, percentBar, select, since, trouble } from './parts.js';
import { openStart } from './start.js';
import {
  RUN_STATUSES, STATUSES, VERDICTS, icon, look, setFavicon, shownStatus, statusMark, verdictBadge,
} from './words.js';

const PAGE = 50;
const ASKED = 4; // runs that are asked why

export function openRuns(root, _argument, query) {
  const state = {
    status: query.get('status') ?? '', pipeline: query.get('pipeline') ?? '',
    labels: query.getAll('label'), after: query.get('after') ?? '',
    text: '', found: null, runs: null, next: null, overview: null, pipelines: [], names: [],
    active: [], reasons: new Map(), problem: null,
  };

  /** The filters are the address: so they can be kept, sent, and gone back from. */
  function choose(changes) {
    const next = { ...state, after: '', ...changes };
    const search = new URLSearchParams();
    for (const name of ['status', 'pipeline', 'after']) if (next[name]) search.set(name, next[name]);
    for (const label of next.labels) search.append('label', label);
    const text = String(search);
    location.hash = text ? `#/?${text}` : '#/';
  }
  const act = {
    choose,
    pick: (name, value) => choose({ labels: [...new Set([...state.labels, `${name}:${value}`])] }),
    drop: (label) => choose({ labels: state.labels.filter((each) => each !== label) }),
    type: (text) => {
      state.text = text.trim();
      state.found = null;
      show();
      lookUp();
    },
    start: () => openStart(state.pipelines.filter((each) => each.startable)),
    retry: () => polling.now(),
  };
  const show = () => draw(root, view(state, act));

  async function refresh() {
    try {
      const { status, pipeline, labels, after } = state;
      const [page, overview] = await Promise.all([
        get('runs', { status, pipeline, label: labels, after, limit: PAGE }),
        get('overview'),
      ]);
      const busy = overview.counts?.running ?? 0;
      const whole = status || pipeline || labels.length || after || page.next;
      const active = busy && whole ? (await get('runs', { status: 'running', limit: PAGE })).runs : null;
      Object.assign(state, { runs: page.runs, next: page.next, overview, problem: null,
        active: active ?? page.runs.filter((run) => run.status === 'running') });
    } catch (error) {
      state.problem = error;
    }
    tell(state);
    show();
    askWhy();
  }

  /** What is not fine is told with its line of code at once; that is asked for now and then only. */
  function askWhy() {
    const troubled = state.active.filter((run) => VERDICTS[run.verdict]).slice(0, ASKED);
    const due = troubled.filter((run) => {
      const known = state.reasons.get(run.id);
      return known?.verdict !== run.verdict || Date.now() - known.at > 10_000;
    });
    for (const run of due) {
      state.reasons.set(run.id, { ...state.reasons.get(run.id), verdict: run.verdict, at: Date.now() });
      get(`runs/${run.id}/why`).then(({ summary }) => {
        state.reasons.get(run.id).summary = summary;
        show();
      }, () => {}); // then the verdict's own sentence stands there
    }
  }

  async function readChoices() {
    try {
      const [pipelines, labels] = await Promise.all([get('pipelines'), get('labels')]);
      Object.assign(state, { pipelines: pipelines.pipelines, names: labels.labels });
      show();
    } catch { /* the filters do without; the list tells of the trouble */ }
  }

  /** An identifier of a run that is not on this page: the server knows it by its beginning. */
  async function lookUp() {
    const text = state.text;
    if (text.length < 4 || (state.runs ?? []).some((run) => run.id.startsWith(text))) return;
    try {
      const run = await get(`runs/${encodeURIComponent(text)}`);
      if (state.text === text) state.found = run;
    } catch { /* none, or more than one: what is loaded is shown */ }
    show();
  }

  const polling = every(2000, refresh);
  const choices = every(30_000, readChoices);
  const ticking = setInterval(show, 1000);
  show();
  return {
    close() {
      polling.stop();
      choices.stop();
      clearInterval(ticking);
    },
    keys: { j: () => step(root, 1), k: () => step(root, -1) },
  };
}

function step(root, by) {
  const links = [...root.querySelectorAll('.row-link')];
  const at = links.indexOf(document.activeElement);
  const next = links[at < 0 ? 0 : Math.max(0, Math.min(links.length - 1, at + by))];
  next?.focus();
  next?.closest('.row').scrollIntoView({ block: 'nearest' });
}

/** The tab tells what matters without being looked at. */
function tell({ overview, active }) {
  const running = overview?.counts?.running ?? 0;
  const troubled = active.filter((run) => VERDICTS[run.verdict]);
  document.title = `${troubled.length ? `(!) ${troubled.length} need a look · ` : ''}`
    + `${running ? `${running} running · ` : ''}stagerun`;
  setFavicon(troubled.length ? VERDICTS[troubled[0].verdict].tone : running ? 'run' : 'idle');
}

function view(state, act) {
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
  return h('ul', { class: 'attention', 'aria-label': 'Runs that need a look' },
    troubled.slice(0, 5).map((run) => h('li', { key: run.id, class: `t-${VERDICTS[run.verdict].tone}` },
      h('a', { href: `#/runs/${run.id}` }, h('span', {}, verdictBadge(run.verdict)),
        h('span', { class: 'who' }, h('strong', {}, run.pipeline), h('code', { class: 'id' }, run.id.slice(0, 8))),
        h('span', { class: 'says' }, reasons.get(run.id)?.summary ?? VERDICTS[run.verdict].says)))));
}

/** Counts by status: the strip is the filter, too. */
function strip({ overview, status }, act) {
  const counts = overview?.counts ?? {};
  const all = RUN_STATUSES.reduce((sum, name) => sum + (counts[name] ?? 0), 0);
  const tile = (name, word, shape, tone, n) => h('button', {
    key: name, type: 'button', class: `tile t-${tone} ${n ? '' : 'zero'}`,
    'aria-pressed': String(status === name), title: `${count(n)} ${word}`,
    onclick: () => act.choose({ status: status === name ? '' : name }),
  },
  h('span', { class: 'tile-count' }, overview ? short(n) : '–'),
  h('span', { class: 'tile-word' }, icon(shape, name === 'running' && n ? 'beats' : ''), word));
  return h('div', { class: 'strip', role: 'group', 'aria-label': 'Runs by status' },
    tile('', 'all runs', 'ring', 'all', all),
    RUN_STATUSES.map((name) => {
      const { word, shape, tone } = STATUSES[name];
      return tile(name, word, shape, tone, counts[name] ?? 0);
    }));
}

function tools(state, act) {
  const startable = state.pipelines.some((each) => each.startable);
  const names = state.pipelines.map((each) => [each.name, each.name]);
  const labels = state.names.flatMap(({ name, values }) => (
    values.map((value) => [`${name}:${value}`, `${name}: ${value}`])));
  return h('div', { class: 'tools' },
    h('label', { class: 'search' }, h('span', { class: 'visually-hidden' }, 'Filter by id or pipeline'),
      h('input', { type: 'search', 'data-filter': true, placeholder: 'Id or pipeline…', autocomplete: 'off',
        spellcheck: 'false', oninput: (event) => act.type(event.target.value),
        onkeydown: (event) => { if (event.key === 'Enter') openFirst(state); } }),
      h('kbd', {}, '/')),
    select('Pipeline', [['', 'All pipelines'], ...names], state.pipeline,
      (pipeline) => act.choose({ pipeline })),
    select('Label', [['', labels.length ? 'Any label' : 'No labels'], ...labels], '', (label) => {
      if (label) act.choose({ labels: [...new Set([...state.labels, label])] });
    }),
    state.labels.map((label) => h('button', {
      key: label, type: 'button', class: 'chip picked', title: 'Remove this filter', onclick: () => act.drop(label),
    }, label.replace(':', ' = '), h('span', { 'aria-hidden': 'true' }, ' ×'))),
    h('span', { class: 'grow' }),
    startable && h('button', { type: 'button', class: 'button primary', onclick: act.start },
      icon('play'), 'Start', h('span', { class: 'wide-only' }, 'a run')));
}

function openFirst(state) {
  const [first] = shownRuns(state);
  if (first) location.hash = `#/runs/${first.id}`;
}

function table(runs, act) {
  return h('div', { class: 'runs' },
    h('div', { class: 'row row-head', 'aria-hidden': 'true' },
      ['Status', 'Run', 'Progress', 'Started', 'Took'].map((title) => h('span', { key: title }, title))),
    h('ol', { class: 'rows' }, runs.map((run) => row(run, act))));
}

function row(run, act) {
  const status = shownStatus(run);
  const verdict = VERDICTS[run.verdict];
  const active = run.finished_at === null;
  const took = secondsBetween(run.started_at ?? run.created_at, run.finished_at);
  const tone = verdict?.tone ?? look(STATUSES, status).tone;
  const says = run.message || (active && run.step ? `in ${run.step}` : '');
  return h('li', { key: run.id, class: `row t-${tone} ${verdict ? 'loud' : ''} ${active ? 'active' : ''}` },
    h('div', { class: 'row-status' }, statusMark(status), verdictBadge(run.verdict)),
    h('div', { class: 'row-main' },
      h('div', { class: 'row-title' },
        h('a', { class: 'row-link', href: `#/runs/${run.id}` }, run.pipeline),
        h('code', { class: 'id' }, run.id.slice(0, 8)),
        run.generation > 1 && h('span', { class: 'quiet', title: 'resumed' }, `gen. ${run.generation}`),
        Object.entries(run.labels ?? {}).map(([name, value]) => labelChip(name, value, act.pick))),
      h('div', { class: 'row-says' },
        active && run.step && run.message ? h('b', {}, `${run.step}: `) : null, says)),
    h('div', { class: 'row-progress' },
      percentBar(run, run.outcomes ?? (run.stages && sumOutcomes(run.stages)), 'slim'),
      h('span', { class: 'number' }, run.percent === null ? (active ? '…' : '–') : percent(run.percent))),
    h('div', { class: 'row-age' }, since(run.created_at)),
    h('div', { class: 'row-took number' }, run.status === 'queued' ? '–' : active ? counting(took) : span(took)));
}

function nothing(state, act) {
  const filtered = state.status || state.pipeline || state.labels.length || state.text || state.after;
  if (filtered) {
    return empty(h('p', {}, state.text ? `Nothing here begins with “${state.text}”.` : 'No run fits these filters.'),
      h('button', { class: 'button', type: 'button',
        onclick: () => act.choose({ status: '', pipeline: '', labels: [] }) }, 'Show all runs'));
  }
  return empty(
    h('h2', {}, 'No runs yet'),
    h('p', {}, 'Three lines start the first one, from any program that has this database:'),
    h('pre', {}, 'async with open_runtime("runs.db") as runtime:\n'
      + '    run = await runtime.start(pipeline, items)\n    result = await run.wait()'),
    h('p', { class: 'quiet' }, 'Or from a shell: ', h('code', {}, 'stagerun run pipeline.py:pipeline --db runs.db')));
}

function paging(state, act) {
  if (!state.next && !state.after) return null;
  return h('nav', { class: 'paging', 'aria-label': 'Pages of runs' },
    state.after && h('button', { type: 'button', class: 'button', onclick: () => act.choose({}) }, '⇤ Newest'),
    state.after && h('button', { type: 'button', class: 'button', onclick: () => history.back() }, '← Newer'),
    h('span', { class: 'quiet' }, plural(state.runs?.length ?? 0, 'run')),
    state.next && h('button', { type: 'button', class: 'button',
      onclick: () => act.choose({ after: state.next }) }, 'Older →'));
}
