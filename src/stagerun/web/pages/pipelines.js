// Pipelines: which there are, and how long and how well their runs went.

import { every, get } from './api.js';
import { draw, h } from './dom.js';
import { durationsPicture } from './durations.js';
import { count, plural, secondsBetween, span } from './format.js';
import { empty, panel, since, trouble } from './parts.js';
import { openStart } from './start.js';
import {
  KINDS,
  RUN_STATUSES,
  STATUSES,
  icon,
  setFavicon,
  shownStatus,
  statusMark,
  verdictBadge,
} from './words.js';

export function openPipelines(root) {
  const state = { pipelines: null, problem: null };
  document.title = 'Pipelines · stagerun';
  setFavicon('idle');
  const show = () =>
    draw(
      root,
      overview(state, () => polling.now()),
    );
  const polling = every(5000, async () => {
    try {
      state.pipelines = (await get('pipelines')).pipelines;
      state.problem = null;
    } catch (error) {
      state.problem = error;
    }
    show();
  });
  show();
  return { close: () => polling.stop() };
}

function overview({ pipelines, problem }, retry) {
  return [
    h('h1', { class: 'page-title' }, 'Pipelines'),
    trouble(problem, retry),
    pipelines === null && !problem ? h('p', { class: 'quiet' }, 'Loading…') : null,
    pipelines?.length === 0 &&
      empty(
        h('h2', {}, 'No pipelines yet'),
        h(
          'p',
          {},
          'Those given to the service, and those that have runs in its database, stand here.',
        ),
      ),
    pipelines?.length > 0 &&
      h(
        'ul',
        { class: 'cards' },
        pipelines.map((each) =>
          h(
            'li',
            { key: each.name, class: 'card' },
            h(
              'a',
              { class: 'card-title', href: `#/pipelines/${encodeURIComponent(each.name)}` },
              each.name,
            ),
            h(
              'p',
              { class: 'quiet' },
              [
                plural(each.runs ?? 0, 'run'),
                each.stages && plural(each.stages.length, 'stage'),
                each.deadline && `deadline ${span(each.deadline)}`,
              ]
                .filter(Boolean)
                .join(' · '),
            ),
            each.stages && route(each.stages),
            each.last &&
              h(
                'p',
                { class: 'card-last' },
                statusMark(shownStatus(each.last)),
                verdictBadge(each.last.verdict),
                since(each.last.created_at),
              ),
          ),
        ),
      ),
  ];
}

/** The stages in order, as a line of names. */
function route(stages) {
  return h(
    'ol',
    { class: 'route' },
    stages.slice(0, 12).map((stage) => h('li', { key: stage.name }, stage.name)),
    stages.length > 12 && h('li', { key: '…' }, `and ${stages.length - 12} more`),
  );
}

export function openPipeline(root, name) {
  const state = { name, pipeline: null, durations: null, runs: null, problem: null, widths: {} };
  document.title = `${name} · stagerun`;
  setFavicon('idle');
  const show = () => draw(root, detail(state, { retry: () => polling.now(), redraw: show }));
  const polling = every(4000, async () => {
    try {
      const path = `pipelines/${encodeURIComponent(name)}/durations`;
      const [all, durations, runs] = await Promise.all([
        get('pipelines'),
        get(path, { limit: 200 }),
        get('runs', { pipeline: name, limit: 12 }),
      ]);
      Object.assign(state, {
        pipeline: all.pipelines.find((each) => each.name === name) ?? { name },
        durations,
        runs: runs.runs,
        problem: null,
      });
    } catch (error) {
      state.problem = error;
    }
    show();
  });
  show();
  return { close: () => polling.stop() };
}

function detail(state, act) {
  const { name, pipeline, durations, runs } = state;
  return [
    h(
      'div',
      { class: 'title-row' },
      h(
        'div',
        {},
        h('p', { class: 'crumb' }, h('a', { href: '#/pipelines' }, 'Pipelines')),
        h('h1', { class: 'page-title' }, name),
      ),
      h(
        'div',
        { class: 'actions' },
        h(
          'a',
          { class: 'button', href: `#/?pipeline=${encodeURIComponent(name)}` },
          'All its runs',
        ),
        pipeline?.startable &&
          h(
            'button',
            { class: 'button primary', type: 'button', onclick: () => openStart([pipeline]) },
            icon('play'),
            'Start a run',
          ),
      ),
    ),
    trouble(state.problem, act.retry),
    durations && facts(pipeline, durations),
    durations &&
      panel(
        'durations',
        'How long its runs took',
        null,
        durations.runs.length
          ? durationsPicture(durations, null, {
              widths: state.widths,
              name: 'all',
              redraw: act.redraw,
              height: 220,
            })
          : h('p', { class: 'quiet' }, 'No run has ended yet.'),
      ),
    h(
      'div',
      { class: 'columns' },
      pipeline?.stages && panel('stages', 'Stages', null, stageTable(pipeline.stages)),
      runs && panel('last', 'Last runs', null, lastRuns(runs)),
    ),
  ];
}

function facts(pipeline, { runs, deadline }) {
  const ends = runs.filter((run) => run.status !== 'running' && run.status !== 'queued');
  const good = ends.filter((run) => run.status === 'succeeded').length;
  const sorted = ends
    .map((run) => run.seconds)
    .filter((each) => each !== null)
    .sort((a, b) => a - b);
  const rank = (share) => sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? null;
  const fact = (key, value, word, tone = '') =>
    h(
      'div',
      { key, class: `fact ${tone}` },
      h('span', { class: 'fact-value' }, value),
      h('span', { class: 'fact-word' }, word),
    );
  const share = ends.length ? Math.floor((100 * good) / ends.length) : null;
  return h(
    'div',
    { class: 'facts panel' },
    fact('runs', count(pipeline?.runs ?? runs.length), 'runs in all'),
    fact(
      'good',
      share === null ? '–' : `${share} %`,
      `of the last ${ends.length} succeeded`,
      share === null ? '' : share >= 95 ? 't-ok' : share >= 70 ? 't-late' : 't-bad',
    ),
    fact('median', span(rank(0.5)), 'median'),
    fact('p99', span(rank(0.99)), 'p99'),
    fact('deadline', deadline ? span(deadline) : 'none', 'deadline'),
    RUN_STATUSES.slice(2).map((status) => {
      const n = ends.filter((run) => run.status === status).length;
      return n && status !== 'succeeded'
        ? fact(status, count(n), STATUSES[status].word, `t-${STATUSES[status].tone}`)
        : null;
    }),
  );
}

function stageTable(stages) {
  return h(
    'div',
    { class: 'scroll' },
    h(
      'table',
      {},
      h(
        'thead',
        {},
        h(
          'tr',
          {},
          ['Stage', 'Kind', 'Workers', 'Deadline', 'Attempts'].map((title) =>
            h('th', { key: title, scope: 'col' }, title),
          ),
        ),
      ),
      h(
        'tbody',
        {},
        stages.map((stage) =>
          h(
            'tr',
            { key: stage.name },
            h('td', { class: 'strong' }, stage.name),
            h('td', {}, KINDS[stage.kind] ?? stage.kind),
            h('td', {}, stage.workers),
            h('td', {}, stage.deadline ? span(stage.deadline) : 'none'),
            h('td', {}, (stage.retries ?? 0) + 1),
          ),
        ),
      ),
    ),
  );
}

function lastRuns(runs) {
  return h(
    'ul',
    { class: 'lines' },
    runs.map((run) =>
      h(
        'li',
        { key: run.id },
        h(
          'span',
          { class: 'lines-status' },
          statusMark(shownStatus(run)),
          verdictBadge(run.verdict),
        ),
        h('a', { href: `#/runs/${run.id}` }, h('code', {}, run.id.slice(0, 8))),
        h('span', { class: 'cut quiet' }, run.message ?? ''),
        since(run.created_at),
        h(
          'span',
          { class: 'number' },
          span(secondsBetween(run.started_at ?? run.created_at, run.finished_at)),
        ),
      ),
    ),
  );
}
