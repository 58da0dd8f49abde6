// The page of one run: what is fetched when, and where each part of it stands.

import { every, get, post } from './api.js';
import { confirmCancel, toast } from './dialogs.js';
import { draw, h, memory } from './dom.js';
import { durationsPanel } from './durations.js';
import { errorsPanel } from './errors.js';
import { setClock, words } from './format.js';
import { head } from './head.js';
import { headroomPanel } from './headroom.js';
import { history } from './history.js';
import { Items } from './items.js';
import { Logs } from './logs.js';
import { trouble } from './parts.js';
import { stagesPanel } from './stages.js';
import { follow } from './stream.js';
import { throughputPanel } from './throughput.js';
import { timelinePanel } from './timeline.js';
import { STATUSES, VERDICTS, ended, look, setFavicon, shownStatus } from './words.js';

/** What the list of a progress event's counts means, in order. */
const COUNTS = ['accepted', 'ok', 'failed', 'timed_out', 'cancelled', 'skipped', 'crashed'];

const GLANCE = 15_000;

export function openRun(root, identifier) {
  const state = {
    run: null,
    charts: null,
    durations: null,
    why: null,
    problem: null,
    doing: null,
    connection: 'connecting',
    widths: {},
    throughputOf: '',
    same: memory(),
  };
  const path = `runs/${encodeURIComponent(identifier)}`;
  const show = () => {
    if (!state.scheduled) {
      state.scheduled = requestAnimationFrame(() => {
        state.scheduled = null;
        draw(root, view(state, parts, act));
      });
    }
  };
  const parts = { items: new Items(path, show), logs: new Logs(path, show) };
  let stopFollowing = null;
  let generation = null;

  async function readRun() {
    try {
      accept(await get(path));
      state.problem = null;
    } catch (error) {
      state.problem = error;
    }
    show();
  }

  function accept(run) {
    const first = state.run === null;
    state.run = run;
    parts.items.run = run;
    tell(run); // the tab's title also where nothing is drawn, for want of somebody who looks
    parts.logs.add(run.recent_logs ?? []);
    if (first || generation !== run.generation) {
      generation = run.generation;
      state.why = null;
      begin(run);
    }
  }

  /** For every generation anew: its events, its pictures, its items. */
  function begin(run) {
    stopFollowing?.();
    parts.logs.read();
    parts.items.read();
    pictures?.now();
    reasons?.now();
    if (ended(run.status)) state.connection = 'ended';
    else stopFollowing = follow(`${path}/events`, { onEvent: hear, onState: connected });
  }

  function connected(connection) {
    const over = state.connection !== 'ended' && connection === 'ended';
    state.connection = connection;
    if (over) {
      for (const each of [polling, pictures, reasons]) each.now();
      parts.items.read();
    }
    show();
  }

  function hear(kind, data) {
    if (kind === 'reset') accept(data);
    else if (kind === 'log') parts.logs.add([{ ...data, time: data.at }]);
    else if (kind === 'progress') progress(data);
    else polling.now(); // a status changed, something blocks, something survived: read it all again
    tell(state.run);
    show();
  }

  function progress(data) {
    const run = state.run;
    // After a connect the kept events come again: those are older than what is shown.
    if (!run || data.generation !== run.generation || data.at < run.updated_at) return;
    if (data.percent !== undefined && data.percent !== null) run.percent = data.percent;
    for (const stage of run.stages) {
      const told = data.stages?.[stage.name];
      if (!told) continue;
      COUNTS.forEach((name, place) => {
        stage[name] = Array.isArray(told) ? told[place] : (told[name] ?? stage[name]);
      });
      const settled = COUNTS.slice(1).reduce((sum, name) => sum + stage[name], 0);
      // How many are in flight is not told: what was known, as far as the sum still allows it.
      stage.in_flight = Math.min(stage.in_flight, stage.accepted - settled);
      stage.waiting = Math.max(0, stage.accepted - settled - stage.in_flight);
    }
  }

  const running = () => state.run && !ended(state.run.status);

  async function readPictures() {
    try {
      state.charts = await get(`${path}/charts`);
      setClock(state.charts.now);
      state.durations = await get(
        `pipelines/${encodeURIComponent(state.run?.pipeline ?? '')}/durations`,
        { limit: 80 },
      );
    } catch (error) {
      if (!state.charts) state.chartsProblem = error;
    }
    show();
  }

  async function readWhy() {
    try {
      state.why = await get(`${path}/why`);
    } catch {
      /* the page tells what it knows without it */
    }
    show();
  }

  /** Poll while it runs; once more when it has ended. */
  const whileRunning = (milliseconds, work) => {
    let complete = null;
    return every(milliseconds, async () => {
      if (!state.run || (!running() && complete === generation)) return;
      const over = !running();
      await work();
      if (over) complete = generation;
    });
  };
  // An ended run is looked at too, now and then: somebody may resume it from elsewhere.
  let turns = 0;
  const polling = every(2000, async () => {
    if (running() || state.problem || turns % 5 === 0) await readRun();
    turns += 1;
  });
  const pictures = whileRunning(3000, readPictures);
  const reasons = whileRunning(4000, readWhy);
  const items = every(5000, async () => {
    if (running()) await parts.items.refresh();
  });
  const ticking = setInterval(show, 1000);
  // Nobody looks, and the stream is closed for that: still the title is to tell of the ending.
  const glancing = setInterval(() => document.hidden && running() && readRun(), GLANCE);

  async function doing(name, work) {
    state.doing = name;
    show();
    try {
      await work();
    } catch (error) {
      toast(error.message, 'bad');
    }
    state.doing = null;
    await readRun();
  }

  const act = {
    retry: () => readRun(),
    redraw: show,
    errors: (group) => {
      parts.items.choose({ stage: group.stage, outcome: group.outcome });
      document.getElementById('h-items')?.scrollIntoView({ block: 'start' });
    },
    throughputOf: (name) => {
      state.throughputOf = name;
      show();
    },
    async cancel() {
      if (!running() || state.doing) return;
      const reason = await confirmCancel(state.run);
      if (reason === null) return;
      await doing('cancel', async () => {
        const answer = await post(`${path}/cancel`, reason.reason ? { reason: reason.reason } : {});
        toast(
          BECAME[answer.became]?.(answer) ?? answer.message,
          answer.became === 'ended' ? 'late' : 'off',
        );
      });
    },
    async resume(failed) {
      await doing(failed ? 'failed' : 'resume', async () => {
        const run = await post(`${path}/resume`, failed ? { failed: true } : {});
        toast(`Resumed as generation ${run.generation}.`);
        accept(run);
      });
    },
  };

  return {
    close() {
      stopFollowing?.();
      clearInterval(ticking);
      clearInterval(glancing);
      if (state.scheduled) cancelAnimationFrame(state.scheduled);
      for (const each of [polling, pictures, reasons, items]) each.stop();
    },
    keys: { c: act.cancel },
  };
}

const BECAME = {
  ended: (answer) => `It had ended already: ${words(answer.status)}. ${answer.message ?? ''}`,
  cancelling: () => 'Its work was told to stop.',
  asked: (answer) => `Asked to stop; ${answer.message ?? 'its process has not answered yet'}.`,
};

function tell(run) {
  if (!run) return;
  const troubled = VERDICTS[run.verdict];
  const status = look(STATUSES, shownStatus(run));
  const done = run.percent !== null && !ended(run.status) ? `${Math.floor(run.percent)} % · ` : '';
  document.title = `${troubled ? `(!) ${words(run.verdict)} · ` : ''}${done}${status.word} · ${run.pipeline}`;
  setFavicon(troubled?.tone ?? status.tone);
}

function view(state, parts, act) {
  const { run, problem, charts, widths } = state;
  if (!run) {
    return [
      h('p', { class: 'crumb' }, h('a', { href: '#/' }, 'Runs')),
      trouble(problem, act.retry),
      problem ? null : h('p', { class: 'quiet' }, 'Loading…'),
    ];
  }
  return [
    head(state, act),
    trouble(problem, act.retry),
    h(
      'div',
      { class: 'run-body' },
      h(
        'div',
        { class: 'run-main' },
        stagesPanel(run, charts),
        state.same('timeline', [charts, widths.timeline], () => timelinePanel(state, act)),
        state.same('throughput', [charts, widths.throughput, state.throughputOf], () =>
          throughputPanel(state, act),
        ),
        state.same('headroom', [charts, Object.values(widths).join()], () =>
          headroomPanel(state, act),
        ),
        parts.items.view(run),
      ),
      h(
        'div',
        { class: 'run-side' },
        errorsPanel(charts, run, act),
        durationsPanel(state, act),
        history(run),
        parts.logs.view(run),
      ),
    ),
  ];
}
