// The frame around the pages: addresses behind the #, the bar at the top, keys, theme, token.

import { get, every, onUnauthorised, takeToken } from './api.js';
import { askToken, showHelp } from './dialogs.js';
import { draw, h } from './dom.js';
import { openPipeline, openPipelines } from './pipelines.js';
import { openRun } from './run.js';
import { openRuns } from './runs.js';
import { openSchedule, openSchedules } from './schedules.js';
import { hide, startTips } from './tips.js';
import { icon } from './words.js';

const PAGES = [
  [/^#\/runs\/([^/?]+)/, openRun, 'runs'],
  [/^#\/pipelines\/([^/?]+)/, openPipeline, 'pipelines'],
  [/^#\/pipelines/, openPipelines, 'pipelines'],
  [/^#\/schedules\/([^/?]+)/, openSchedule, 'schedules'],
  [/^#\/schedules/, openSchedules, 'schedules'],
  [/^/, openRuns, 'runs'],
];
const THEMES = ['auto', 'light', 'dark'];

const main = document.getElementById('main');
let page = null;
let section = 'runs';
let health = null;
let theme = 'auto';

function go() {
  hide();
  const hash = location.hash;
  const query = new URLSearchParams(hash.split('?')[1] ?? '');
  const [pattern, open, name] = PAGES.find(([each]) => each.test(hash));
  const argument = decode(pattern.exec(hash)[1]);
  if (page?.same?.(open, argument, query)) return;
  page?.close();
  section = name;
  const root = document.createElement('div');
  root.className = 'page';
  main.replaceChildren(root);
  page = open(root, argument, query);
  scrollTo(0, 0);
  frame();
}

/** A hand-made address may hold a broken escape: then it is what it is. */
function decode(text) {
  try {
    return text === undefined ? undefined : decodeURIComponent(text);
  } catch {
    return text;
  }
}

function frame() {
  const link = (name, href, text) =>
    h(
      'a',
      {
        href,
        'aria-current': name === section ? 'page' : null,
      },
      text,
    );
  const [state, says] = serverState();
  draw(
    document.getElementById('top'),
    h(
      'a',
      { class: 'brand', href: '#/', 'aria-label': 'stagerun, all runs' },
      h(
        'svg',
        { viewBox: '0 0 32 32', 'aria-hidden': 'true' },
        h('rect', { class: 'brand-box', width: 32, height: 32, rx: 8 }),
        h('path', { class: 'brand-bars', d: 'M7 8h10v4H7zM11 14h10v4H11zM15 20h10v4H15z' }),
      ),
      h('span', {}, 'stagerun'),
    ),
    h(
      'nav',
      { 'aria-label': 'Pages' },
      link('runs', '#/', 'Runs'),
      link('pipelines', '#/pipelines', 'Pipelines'),
      link('schedules', '#/schedules', 'Schedules'),
      h('a', { href: 'docs', class: 'wide-only' }, 'API'),
    ),
    h(
      'div',
      { class: 'top-end' },
      h(
        'span',
        { class: `server t-${state}`, title: says },
        icon('dot'),
        h('span', { class: 'wide-only' }, says),
      ),
      h(
        'button',
        {
          class: 'icon-button',
          type: 'button',
          title: `Theme: ${theme} (t)`,
          'aria-label': `Theme: ${theme}`,
          onclick: nextTheme,
        },
        icon(THEME_SHAPES[theme]),
      ),
      h(
        'button',
        {
          class: 'icon-button',
          type: 'button',
          title: 'Keys (?)',
          'aria-label': 'Keys',
          onclick: showHelp,
        },
        '?',
      ),
    ),
  );
}

const THEME_SHAPES = { auto: 'half', light: 'sun', dark: 'moon' };

function serverState() {
  if (health === null) return ['wait', 'connecting'];
  if (health === false) return ['bad', 'server does not answer'];
  if (health.problem) return ['bad', health.problem];
  const owners = health.owners === 1 ? '1 process' : `${health.owners ?? 0} processes`;
  const { status, why } = health.health ?? {};
  if (status && status !== 'ok') return ['bad', `database ${status}${why ? `: ${why}` : ''}`];
  return ['ok', `${owners}, database ok`];
}

function applyTheme() {
  if (theme === 'auto') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

function nextTheme() {
  theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  try {
    localStorage.setItem('stagerun-theme', theme);
  } catch {
    /* then it holds for this page only */
  }
  applyTheme();
  frame();
}

let before = '';
function onKey(event) {
  const typing = event.target.closest?.('input, textarea, select');
  if (event.key === 'Escape' && typing && !document.querySelector('dialog[open]')) event.target.blur();
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (document.querySelector('dialog[open]')) return;
  const keys = {
    '?': showHelp,
    t: nextTheme,
    '/': () => document.querySelector('[data-filter]')?.focus(),
    ...(before === 'g' && {
      r: () => {
        location.hash = '#/';
      },
      p: () => {
        location.hash = '#/pipelines';
      },
      s: () => {
        location.hash = '#/schedules';
      },
    }),
    ...page?.keys,
  };
  const action = keys[event.key];
  before = event.key;
  if (!action) return;
  event.preventDefault();
  action();
}

try {
  theme = THEMES.includes(localStorage.getItem('stagerun-theme'))
    ? localStorage.getItem('stagerun-theme')
    : 'auto';
} catch {
  /* no storage allowed */
}
applyTheme();
takeToken();
onUnauthorised(askToken);
startTips();
addEventListener('hashchange', () => {
  takeToken();
  go();
});
addEventListener('keydown', onKey);
document.getElementById('skip').addEventListener('click', (event) => {
  event.preventDefault(); // the part behind the # is the page's address
  main.focus();
});
every(5000, async () => {
  try {
    health = await get('overview');
  } catch (error) {
    health = error.status === 0 ? false : { problem: error.message };
  }
  frame();
});
go();
