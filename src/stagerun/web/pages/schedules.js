// Schedules: what runs by itself, when it comes next, what became of the last slots.

import { every, get, post } from './api.js';
import { toast } from './dialogs.js';
import { draw, h } from './dom.js';
import { absolute, ago, count, counting, plural, secondsBetween, span, words } from './format.js';
import { empty, panel, since, trouble } from './parts.js';
import { icon, outcomeMark, setFavicon, statusMark } from './words.js';

export function openSchedules(root) {
  return live(root, 'Schedules', async () => (await get('schedules')).schedules, list);
}

export function openSchedule(root, name) {
  const path = `schedules/${encodeURIComponent(name)}`;
  return live(
    root,
    name,
    () => get(path),
    (state, act) => detail(name, state, act),
  );
}

/** A page that is read again and again, on which time goes on, and where something can be done. */
function live(root, title, read, view) {
  const state = { found: null, problem: null, doing: null };
  document.title = `${title} · stagerun`;
  setFavicon('idle');
  const show = () => draw(root, view(state, act));
  const act = {
    retry: () => polling.now(),
    async tell({ name }, verb) {
      state.doing = name;
      show();
      try {
        toast(...said(verb, name, await post(`schedules/${encodeURIComponent(name)}/${verb}`, {})));
      } catch (problem) {
        toast(problem.message, 'bad');
      }
      state.doing = null;
      polling.now();
    },
  };
  const polling = every(2000, async () => {
    try {
      state.found = await read();
      state.problem = null;
    } catch (error) {
      state.problem = error;
    }
    show();
  });
  const ticking = setInterval(show, 1000);
  show();
  return {
    close() {
      polling.stop();
      clearInterval(ticking);
    },
  };
}

/** What came of a word to a schedule, and its tone. */
function said(verb, name, answer) {
  if (verb === 'pause') return [`${name} is paused. Runs under way go on.`];
  if (verb === 'resume') return [`${name} comes again from now on.`];
  if (answer.decision === 'fired') return [`${name} has started run ${answer.run.slice(0, 8)}.`];
  if (answer.decision === 'skipped') return [`${name} has started none: ${answer.reason}.`, 'late'];
  return [`No process has taken it yet: ${name} is started as soon as one can.`, 'late'];
}

// -- all of them ----------------------------------------------------------------------------------

function list({ found, problem, doing }, act) {
  return [
    h('h1', { class: 'page-title' }, 'Schedules'),
    trouble(problem, act.retry),
    found === null && !problem ? h('p', { class: 'quiet' }, 'Loading…') : null,
    found?.length === 0 && nothing(),
    found?.length > 0 &&
      h(
        'div',
        { class: 'runs schedules' },
        h(
          'div',
          { class: 'row row-head', 'aria-hidden': 'true' },
          ['State', 'Schedule', 'Next', 'Last', 'Slots', ''].map((title) =>
            h('span', { key: title }, title),
          ),
        ),
        h(
          'ol',
          { class: 'rows' },
          found.map((each) => row(each, doing, act)),
        ),
      ),
  ];
}

function nothing() {
  return empty(
    h('h2', {}, 'No schedules yet'),
    h('p', {}, 'A schedule runs a pipeline by itself, at the times of a clock on the wall:'),
    h(
      'pre',
      {},
      'nightly = Schedule("nightly", pipeline,\n' +
        '                   cron="30 2 * * *", zone="Europe/Berlin")',
    ),
    h('p', { class: 'quiet' }, 'Serve it: ', h('code', {}, 'stagerun serve FILE.py:nightly')),
  );
}

function row(schedule, doing, act) {
  const { name, state, pipeline, overlap, active } = schedule;
  const rule = `${words(overlap)}, ${count(active)} at once`;
  return h(
    'li',
    { key: name, class: 'row' },
    h('div', { class: 'row-status' }, statusMark(state)),
    h(
      'div',
      { class: 'row-main' },
      h(
        'div',
        { class: 'row-title' },
        h('a', { class: 'strong', href: `#/schedules/${encodeURIComponent(name)}` }, name),
        when(schedule),
      ),
      h('div', { class: 'row-says' }, `${pipeline} · ${rule}`),
    ),
    h('div', { class: 'schedule-next' }, next(schedule)),
    h('div', { class: 'schedule-last' }, last(schedule.last)),
    h('div', { class: 'schedule-slots' }, slots(schedule)),
    actions(schedule, doing, act),
  );
}

function when({ cron, every: seconds, zone }) {
  if (cron === null) return h('span', { class: 'quiet' }, `every ${span(seconds)}`);
  return h('span', { class: 'quiet' }, h('code', {}, cron), ` ${zone}`);
}

/** The time until the next slot, as a clock that runs down. */
function next({ next_at: at, state }) {
  if (state === 'paused') return h('span', { class: 'quiet' }, '–');
  if (at === null) return h('span', { class: 'quiet' }, 'soon');
  const left = -secondsBetween(at);
  const text = left > 0 ? counting(left) : state === 'unserved' ? `due ${ago(at)}` : 'now';
  const kind = left > 0 ? 'number runs-down' : 'number';
  return h('time', { class: kind, datetime: at, title: absolute(at) }, text);
}

function last(slot) {
  if (slot === null) return h('span', { class: 'quiet' }, 'none yet');
  return [mark(slot), runLink(slot) ?? h('span', {}), since(slot.at)];
}

/** What became of a slot: how its run stands, or that there is none. */
function mark({ decision, status, reason }) {
  if (decision === null) return statusMark('queued');
  if (decision === 'skipped') return h('span', { class: 'mark', title: reason }, outcomeMark('skipped'));
  return status === null ? h('span', { class: 'quiet' }, 'pruned') : statusMark(status);
}

function runLink({ run, status }) {
  if (run === null) return null;
  const id = h('code', { class: 'id' }, run.slice(0, 8));
  return status === null ? id : h('a', { href: `#/runs/${run}` }, id);
}

function slots({ fired, skipped, missed }) {
  const part = (n, word, tone) =>
    h('span', { key: word, class: n && tone ? `mark t-${tone}` : 'quiet' }, `${count(n)} ${word}`);
  return [part(fired, 'fired'), part(skipped, 'skipped', 'late'), part(missed, 'missed', 'cut')];
}

function actions(schedule, doing, act) {
  const paused = schedule.state === 'paused';
  const button = (verb, text, shape, on, title) =>
    h(
      'button',
      {
        key: verb,
        type: 'button',
        class: 'button small',
        disabled: !on || doing !== null,
        title,
        'aria-label': `${text} ${schedule.name}`,
        onclick: () => act.tell(schedule, verb),
      },
      icon(shape),
      text,
    );
  return h(
    'div',
    { class: 'actions', role: 'group', 'aria-label': `What can be done with ${schedule.name}` },
    paused
      ? button('resume', 'Resume', 'again', true, 'Let slots come again, from now on')
      : button('pause', 'Pause', 'pause', true, 'Let no slot come until it is resumed'),
    schedule.served_by
      ? button('trigger', 'Run now', 'play', true, 'Start a run now, if the overlap lets it')
      : button('trigger', 'Run now', 'play', false, 'No process serves it now'),
  );
}

// -- one of them ----------------------------------------------------------------------------------

function detail(name, { found, problem, doing }, act) {
  return [
    h(
      'div',
      { class: 'title-row' },
      h(
        'div',
        { class: 'title' },
        h('p', { class: 'crumb' }, h('a', { href: '#/schedules' }, 'Schedules')),
        h(
          'div',
          { class: 'title-line' },
          h('h1', { class: 'page-title' }, name),
          found && h('span', { class: 'status-big' }, statusMark(found.state)),
        ),
        found && h('p', { class: 'title-facts' }, when(found), pipelineLink(found)),
      ),
      found && actions(found, doing, act),
    ),
    trouble(problem, act.retry),
    found && facts(found),
    found &&
      panel(
        'slots',
        'Last slots',
        null,
        found.slots.length
          ? h('ul', { class: 'lines' }, found.slots.map(line))
          : h('p', { class: 'quiet' }, 'None has come yet.'),
      ),
  ];
}

function pipelineLink({ pipeline }) {
  return h('a', { href: `#/pipelines/${encodeURIComponent(pipeline)}` }, pipeline);
}

function facts(schedule) {
  const fact = (word, value) =>
    h(
      'div',
      { key: word, class: 'fact' },
      h('span', { class: 'fact-value' }, value),
      h('span', { class: 'fact-word' }, word),
    );
  return h(
    'div',
    { class: 'facts panel' },
    fact('until the next slot', next(schedule)),
    fact('fired', count(schedule.fired)),
    fact('skipped', count(schedule.skipped)),
    fact('missed', count(schedule.missed)),
    fact('on overlap', words(schedule.overlap)),
    fact('at once', count(schedule.active)),
    fact('serving it', plural(schedule.served_by, 'process', 'processes')),
  );
}

function line(slot) {
  const asked = slot.asked_by && `asked for by ${slot.asked_by}`;
  const missed = slot.missed > 0 && `stands for ${plural(slot.missed, 'missed slot')}, too`;
  return h(
    'li',
    { key: `${slot.at}${slot.asked_by}` },
    h('span', { class: 'lines-status' }, mark(slot)),
    runLink(slot) ?? h('span', {}),
    h(
      'span',
      { class: 'quiet slot-says' },
      [asked, missed, slot.reason].filter(Boolean).join(' · '),
    ),
    since(slot.at),
    h(
      'span',
      { class: 'number' },
      slot.status && span(secondsBetween(slot.decided_at, slot.finished_at)),
    ),
  );
}
