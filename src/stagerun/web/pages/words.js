// Every status, verdict and outcome: its word, its shape and its tone. None is told by colour alone.

import { h } from './dom.js';

/** Paths in a box of 16 x 16. Filled shapes differ in outline, so that they are told apart in grey. */
const SHAPES = {
  check:
    'M8 1a7 7 0 1 0 0 14A7 7 0 0 0 8 1Zm3.9 5.3-4.6 5a.8.8 0 0 1-1.2 0L4.1 9.2l1.1-1.1 1.5 1.6 4.1-4.4z',
  octagon:
    'M5.1 1h5.8L15 5.1v5.8L10.9 15H5.1L1 10.9V5.1zm.3 3.3L4.3 5.4 6.9 8l-2.6 2.6 1.1 1.1L8 9.1l2.6 2.6 1.1-1.1L9.1 8l2.6-2.6-1.1-1.1L8 6.9z',
  hourglass:
    'M3 1h10v1.8h-1V4c0 1.7-1 3-2.4 4 1.4 1 2.4 2.3 2.4 4v1.2h1V15H3v-1.8h1V12c0-1.7 1-3 2.4-4C5 7 4 5.7 4 4V2.8H3zm2.8 11.5h4.4c-.2-1.3-1-2.2-2.2-3-1.2.8-2 1.7-2.2 3z',
  ban: 'M8 1a7 7 0 1 0 0 14A7 7 0 0 0 8 1zm0 1.8c1.2 0 2.2.4 3.1 1L3.8 11A5.2 5.2 0 0 1 8 2.8zm0 10.4a5.2 5.2 0 0 1-3.1-1L12.2 5A5.2 5.2 0 0 1 8 13.2z',
  bolt: 'M9.5 0 2.5 9.2h4.3L5.6 16l7.9-9.8H8.9z',
  play: 'M3.5 1.6v12.8L14 8z',
  clock:
    'M8 1a7 7 0 1 0 0 14A7 7 0 0 0 8 1zm0 1.8a5.2 5.2 0 1 1 0 10.4A5.2 5.2 0 0 1 8 2.8zM7.2 4.4v4.1l3 1.8.8-1.3-2.3-1.3V4.4z',
  skip: 'M2 3.2 8 8l-6 4.8zM8 3.2 14 8l-6 4.8z',
  burst:
    'm8 0 1.7 4.4L14 2l-2 4.3L16 8l-4 1.7L14 14l-4.3-2.4L8 16l-1.7-4.4L2 14l2-4.3L0 8l4-1.7L2 2l4.3 2.4z',
  warning: 'M8 1 .5 14.5h15zm-.9 5h1.8v4H7.1zm0 5h1.8v1.8H7.1z',
  stop: 'M3 3h10v10H3z',
  pause: 'M3 2h4v12H3zM9 2h4v12H9z',
  ring: 'M8 1a7 7 0 1 0 0 14A7 7 0 0 0 8 1zm0 1.8a5.2 5.2 0 1 1 0 10.4A5.2 5.2 0 0 1 8 2.8z',
  dot: 'M8 4a4 4 0 1 0 0 8 4 4 0 0 0 0-8z',
  sun: 'M8 4.5a3.5 3.5 0 1 0 0 7 3.5 3.5 0 0 0 0-7zM7.3 0h1.4v2.8H7.3zm0 13.2h1.4V16H7.3zM0 7.3h2.8v1.4H0zm13.2 0H16v1.4h-2.8zM1.9 2.9l1-1 2 2-1 1zm9.2 9.2 1-1 2 2-1 1zm-7.2-1 1 1-2 2-1-1zm9.2-9.2 1 1-2 2-1-1z',
  moon: 'M6.2 1.2A7 7 0 1 0 14.8 9.8 6 6 0 0 1 6.2 1.2z',
  half: 'M8 1a7 7 0 1 0 0 14A7 7 0 0 0 8 1zm0 1.8v10.4A5.2 5.2 0 0 1 8 2.8z',
  again:
    'M8 2a6 6 0 1 0 5.8 7.5h-2A4.2 4.2 0 1 1 8 3.8c1.2 0 2.2.5 3 1.2L9 7h5V2l-1.7 1.7A6 6 0 0 0 8 2z',
};

export const STATUSES = {
  queued: { word: 'queued', shape: 'clock', tone: 'wait' },
  running: { word: 'running', shape: 'play', tone: 'run' },
  cancelling: { word: 'cancelling', shape: 'stop', tone: 'off' },
  succeeded: { word: 'succeeded', shape: 'check', tone: 'ok' },
  failed: { word: 'failed', shape: 'octagon', tone: 'bad' },
  timed_out: { word: 'timed out', shape: 'hourglass', tone: 'late' },
  cancelled: { word: 'cancelled', shape: 'ban', tone: 'off' },
  interrupted: { word: 'interrupted', shape: 'bolt', tone: 'cut' },
  waiting: { word: 'waiting', shape: 'clock', tone: 'wait' },
  paused: { word: 'paused', shape: 'pause', tone: 'late' },
  unserved: { word: 'not served', shape: 'warning', tone: 'bad' },
};

/** In the order of the strip above the list. */
export const RUN_STATUSES = [
  'running',
  'queued',
  'succeeded',
  'failed',
  'timed_out',
  'cancelled',
  'interrupted',
];

export const OUTCOME = {
  ok: { word: 'ok', shape: 'check', tone: 'ok' },
  failed: { word: 'failed', shape: 'octagon', tone: 'bad' },
  timed_out: { word: 'timed out', shape: 'hourglass', tone: 'late' },
  cancelled: { word: 'cancelled', shape: 'ban', tone: 'off' },
  skipped: { word: 'skipped', shape: 'skip', tone: 'skip' },
  crashed: { word: 'crashed', shape: 'burst', tone: 'crash' },
  in_flight: { word: 'in flight', shape: 'play', tone: 'run' },
  waiting: { word: 'waiting', shape: 'clock', tone: 'wait' },
};

/** Verdicts that are not fine, with what they mean. The others say nothing that the status does not. */
export const VERDICTS = {
  blocked: { tone: 'bad', says: 'A stage keeps the event loop: nothing in its process moves.' },
  suspended: { tone: 'bad', says: 'Its process shows no life: stopped, or held by C code.' },
  dead: { tone: 'bad', says: 'Its process has died. Resume the run, or start the program again.' },
  stalled: { tone: 'late', says: 'No outcome, report or heartbeat for a long time.' },
  store_waits: { tone: 'late', says: 'Work goes on, but the database takes no commits.' },
  slow: { tone: 'slow', says: 'Under way for much longer than is usual for this pipeline.' },
  unknown: { tone: 'slow', says: 'Nobody can tell whether its process is alive.' },
};

/** What a stage makes of what it gets. */
export const KINDS = {
  each: 'one to one',
  many: 'one to many',
  batch: 'in batches',
  collect: 'collects',
};

const TERMINAL = new Set(['succeeded', 'failed', 'cancelled', 'timed_out', 'interrupted']);

export function ended(status) {
  return TERMINAL.has(status);
}

/** What a run shows as its status: one that was asked to stop says so until it has stopped. */
export function shownStatus(run) {
  return run.status === 'running' && run.requested_at ? 'cancelling' : run.status;
}

export function look(kinds, name) {
  return kinds[name] ?? { word: String(name).replaceAll('_', ' '), shape: 'dot', tone: 'wait' };
}

export function icon(shape, extra = '') {
  return h(
    'svg',
    { class: `icon ${extra}`, viewBox: '0 0 16 16', 'aria-hidden': 'true' },
    h('path', { d: SHAPES[shape], 'fill-rule': 'evenodd' }),
  );
}

/** Shape and word of a run's or a stage's status. */
export function statusMark(name, extra = '') {
  const { word, shape, tone } = look(STATUSES, name);
  return h(
    'span',
    { class: `mark t-${tone} ${extra}` },
    icon(shape, name === 'running' ? 'beats' : ''),
    h('span', { class: 'word' }, word),
  );
}

export function outcomeMark(name) {
  const { word, shape, tone } = look(OUTCOME, name);
  return h('span', { class: `mark t-${tone}` }, icon(shape), h('span', { class: 'word' }, word));
}

/** A loud badge for what is not fine; nothing for what is. */
export function verdictBadge(verdict) {
  const known = VERDICTS[verdict];
  if (!known) return null;
  return h(
    'span',
    { class: `badge t-${known.tone}`, title: known.says },
    icon('warning'),
    verdict.replaceAll('_', ' '),
  );
}

/** The tab's icon shows the state too: a coloured square with the product's three bars. */
export function setFavicon(tone) {
  const colours = {
    ok: '#1f9d6b',
    bad: '#dc3d43',
    late: '#d98a00',
    run: '#3b7bf0',
    off: '#8577c4',
    cut: '#d0621c',
    wait: '#6b7684',
  };
  const svg =
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">' +
    `<rect width="32" height="32" rx="8" fill="${colours[tone] ?? '#3b4454'}"/>` +
    '<path d="M7 8h10v4H7zM11 14h10v4H11zM15 20h10v4H15z" fill="#fff"/></svg>';
  const href = `data:image/svg+xml,${encodeURIComponent(svg)}`;
  const link = document.querySelector('link[rel=icon]');
  if (link && link.getAttribute('href') !== href) link.setAttribute('href', href);
}
