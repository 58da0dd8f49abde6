// The list of runs: what is asked for, when, and by which filters. What it looks like: list.js.

import { every, get } from './api.js';
import { draw } from './dom.js';
import { view } from './list.js';
import { openStart } from './start.js';
import { VERDICTS, setFavicon } from './words.js';

const PAGE = 50;
const ASKED = 4; // runs that are asked why

export function openRuns(root, _argument, query) {
  const state = {
    status: query.get('status') ?? '',
    pipeline: query.get('pipeline') ?? '',
    labels: query.getAll('label'),
    after: query.get('after') ?? '',
    text: '',
    found: null,
    runs: null,
    next: null,
    overview: null,
    pipelines: [],
    names: [],
    active: [],
    reasons: new Map(),
    problem: null,
  };

  /** The filters are the address: so they can be kept, sent, and gone back from. */
  function choose(changes) {
    const next = { ...state, after: '', ...changes };
    const search = new URLSearchParams();
    for (const name of ['status', 'pipeline', 'after'])
      if (next[name]) search.set(name, next[name]);
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
      const active =
        busy && whole ? (await get('runs', { status: 'running', limit: PAGE })).runs : null;
      Object.assign(state, {
        runs: page.runs,
        next: page.next,
        overview,
        problem: null,
        active: active ?? page.runs.filter((run) => run.status === 'running'),
      });
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
      state.reasons.set(run.id, {
        ...state.reasons.get(run.id),
        verdict: run.verdict,
        at: Date.now(),
      });
      get(`runs/${run.id}/why`).then(
        ({ summary }) => {
          state.reasons.get(run.id).summary = summary;
          show();
        },
        () => {},
      ); // then the verdict's own sentence stands there
    }
  }

  async function readChoices() {
    try {
      const [pipelines, labels] = await Promise.all([get('pipelines'), get('labels')]);
      Object.assign(state, { pipelines: pipelines.pipelines, names: labels.labels });
      show();
    } catch {
      /* the filters do without; the list tells of the trouble */
    }
  }

  /** An identifier of a run that is not on this page: the server knows it by its beginning. */
  async function lookUp() {
    const text = state.text;
    if (text.length < 4 || (state.runs ?? []).some((run) => run.id.startsWith(text))) return;
    try {
      const run = await get(`runs/${encodeURIComponent(text)}`);
      if (state.text === text) state.found = run;
    } catch {
      /* none, or more than one: what is loaded is shown */
    }
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
  document.title =
    `${troubled.length ? `(!) ${troubled.length} need a look · ` : ''}` +
    `${running ? `${running} running · ` : ''}stagerun`;
  setFavicon(troubled.length ? VERDICTS[troubled[0].verdict].tone : running ? 'run' : 'idle');
}
