// The head of a run's page: how it stands, why, how much is done, and what can be done about it.

import { h } from './dom.js';
import {
  absolute, count, counting, now, percent, plural, rate, secondsBetween, short, span, sumOutcomes, words,
} from './format.js';
import { labelChip, percentBar, since } from './parts.js';
import { OUTCOME, VERDICTS, ended, icon, look, shownStatus, statusMark, verdictBadge } from './words.js';

const RESUMABLE = new Set(['failed', 'cancelled', 'timed_out', 'interrupted']);
const LOST = ['failed', 'timed_out', 'crashed'];

export function head(state, act) {
  const { run } = state;
  return h('section', { class: 'head', 'aria-label': 'The run' },
    h('div', { class: 'title-row' },
      h('div', { class: 'title' },
        h('p', { class: 'crumb' }, h('a', { href: '#/' }, 'Runs'), ' / ',
          h('a', { href: `#/pipelines/${encodeURIComponent(run.pipeline)}` }, run.pipeline)),
        h('div', { class: 'title-line' },
          h('h1', { class: 'page-title' }, run.pipeline),
          h('span', { class: 'status-big' }, statusMark(shownStatus(run))),
          verdictBadge(run.verdict),
          connection(state.connection)),
        h('p', { class: 'title-facts' }, identifier(run.id),
          h('span', {}, since(run.created_at, 'started ')),
          run.generation > 1 && h('span', {}, `generation ${run.generation}`),
          Object.entries(run.labels ?? {}).map(([name, value]) => labelChip(name, value, byLabel)))),
      actions(state, act)),
    reason(state),
    progress(state));
}

function byLabel(name, value) {
  location.hash = `#/?${new URLSearchParams({ label: `${name}:${value}` })}`;
}

function identifier(id) {
  return h('button', { class: 'id copy', type: 'button', title: 'Copy the identifier',
    onclick: (event) => copy(event.currentTarget, id) }, h('code', {}, id));
}

async function copy(button, id) {
  try {
    await navigator.clipboard.writeText(id);
    button.dataset.copied = 'true';
    setTimeout(() => delete button.dataset.copied, 1200);
  } catch { /* not allowed here: the text can be selected */ }
}

const CONNECTIONS = {
  connecting: ['wait', 'connecting'], live: ['ok', 'live'],
  reconnecting: ['late', 'reconnecting'], ended: ['wait', 'ended'],
};

function connection(name) {
  const [tone, word] = CONNECTIONS[name];
  return h('span', { class: `connection t-${tone}`, role: 'status',
    title: 'The stream of this run\'s events', 'data-connection': name },
  icon('dot', name === 'live' ? 'beats' : ''), word);
}

function actions({ run, doing }, act) {
  const over = ended(run.status) || run.verdict === 'dead';
  const lost = run.stages.reduce((sum, stage) => sum + LOST.reduce((n, name) => n + stage[name], 0), 0);
  const button = (name, text, shape, on, extra, why) => h('button', {
    key: name, type: 'button', class: `button ${extra}`, disabled: !on || doing !== null,
    title: why, onclick: () => (name === 'cancel' ? act.cancel() : act.resume(name === 'failed')),
  }, icon(shape), doing === name ? 'Asking…' : text);
  return h('div', { class: 'actions', role: 'group', 'aria-label': 'What can be done' },
    button('cancel', run.requested_at && !over ? 'Cancelling' : 'Cancel', 'stop', !over, 'danger',
      over ? 'It has ended' : 'Stop its work (c)'),
    button('resume', 'Resume', 'again', over && RESUMABLE.has(run.status), '',
      over ? 'Go on with what has no final outcome' : 'It has not ended'),
    button('failed', lost ? `Resume ${count(lost)} failed` : 'Resume failed', 'again', over && lost > 0, '',
      lost ? 'Go on, and repeat what failed, timed out or crashed too' : 'Nothing has failed'));
}

/** One sentence: what it waits for, or how it ended; in the verdict's colour when it is not fine. */
function reason({ run, why }) {
  const over = ended(run.status);
  const verdict = VERDICTS[run.verdict];
  const bad = verdict ?? (over && run.status !== 'succeeded' ? look2(run.status) : null);
  // Its cause stands in the label already.
  const says = over ? (why?.summary ?? run.message ?? '').replace(/^It ended [^:]*: /, '') : why?.summary ?? run.message;
  if (!says && !verdict) return null;
  const working = over ? [] : oldest(why);
  return h('div', { class: `reason ${bad ? `loud t-${bad.tone}` : ''}` },
    verdict && h('p', { class: 'reason-verdict' }, icon('warning'), h('b', {}, words(run.verdict)), ' ', verdict.says),
    says && h('p', { class: 'reason-why' }, h('span', { class: 'reason-label' }, over ? words(run.cause ?? 'ended') : 'why'), says),
    run.message && why?.summary && !over && h('p', { class: 'reason-report' },
      h('span', { class: 'reason-label' }, 'says'), run.message),
    working.length > 0 && h('ul', { class: 'oldest', 'aria-label': 'Oldest work under way' },
      working.map((each) => h('li', { key: each.key },
        h('span', { class: 'number strong' }, span(each.seconds)), h('span', { class: 'cut' }, each.who),
        h('code', { class: 'cut', title: each.code }, each.place),
        h('span', { class: 'number quiet' }, each.cut)))),
    run.survivors?.length > 0 && h('p', { class: 'survivors' }, icon('warning'),
      h('span', {}, h('b', {}, plural(run.survivors.length, 'survivor')), ' still ran when it ended: ',
        run.survivors.join('; '))));
}

function look2(status) {
  return { tone: { failed: 'bad', timed_out: 'late', cancelled: 'off', interrupted: 'cut' }[status] ?? 'wait' };
}

/** The attempts that have been under way for longest, with the line that each stands at. */
function oldest(why) {
  const working = (why?.stages ?? []).flatMap((stage) => (stage.working ?? []).map((each) => {
    const place = each.places?.find((one) => one.own) ?? each.places?.[0];
    const items = each.items ?? [];
    return {
      key: `${stage.name}/${items[0]}/${each.attempt}`,
      seconds: each.seconds,
      who: `${stage.name} ${items.length === 1 ? `item ${items[0]}` : plural(items.length, 'item')}`
        + (each.attempt > 1 ? `, attempt ${each.attempt} of ${each.attempts}` : ''),
      place: place ? `${place.file}:${place.line} ${place.function}` : '',
      code: place ? [place.code, place.awaits && `awaits ${place.awaits}`].filter(Boolean).join(' – ') : '',
      cut: cutIn(each),
    };
  }));
  return working.sort((a, b) => b.seconds - a.seconds).slice(0, 3);
}

function cutIn({ cut_in: left, cut_for: since }) {
  if (since !== null && since !== undefined) return `cut ${counting(since)} ago, still runs`;
  if (left === null || left === undefined) return '';
  return left > 0 ? `cut in ${counting(left)}` : 'overdue';
}

function progress({ run, charts }) {
  const over = ended(run.status);
  const pace = charts?.pace ?? {};
  const sums = sumOutcomes(run.stages);
  const flying = run.stages.reduce((sum, stage) => sum + stage.in_flight, 0);
  const waiting = run.stages.reduce((sum, stage) => sum + Math.max(0, stage.waiting), 0);
  const elapsed = secondsBetween(run.started_at ?? run.created_at, run.finished_at);
  const fact = (key, value, word, tone = '', title = null) => h('div', { key, class: `fact ${tone}`, title },
    h('span', { class: 'fact-value number' }, value), h('span', { class: 'fact-word' }, word));
  return h('div', { class: 'progress panel' },
    h('div', { class: 'progress-top' },
      h('span', { class: 'percent number' }, percentOf(run, sums, over)),
      h('div', { class: 'progress-bar' }, percentBar(run, sums, 'thick'), counts(sums, flying, waiting))),
    h('div', { class: 'facts' },
      !over && fact('rate', rate(pace.items_per_second), 'items finished'),
      !over && fact('left', pace.seconds_left === null || pace.seconds_left === undefined
        ? (run.percent === null ? 'unknown' : '–') : `~ ${span(pace.seconds_left)}`, 'time left'),
      fact('elapsed', run.status === 'queued' ? '–' : over ? span(elapsed) : counting(elapsed), over ? 'took' : 'elapsed', '',
        absolute(run.started_at)),
      deadline(run, over, fact),
      run.source_length !== null && run.source_length !== undefined
        && fact('length', count(run.source_length), 'items in the source'),
      run.step && !over && fact('step', run.step, 'step'),
      run.error?.code && over && run.error.code !== run.cause && fact('code', run.error.code, 'error', 't-bad')));
}

/** Where the length of the source is unknown no percentage would be true: then what is done. */
function percentOf(run, sums, over) {
  if (run.percent !== null) return percent(run.percent, 1);
  if (over) return '–';
  return [short(Object.values(sums).reduce((sum, n) => sum + n, 0)), h('small', {}, 'outcomes')];
}

function counts(sums, flying, waiting) {
  const entries = [...Object.entries(sums), ['in_flight', flying], ['waiting', waiting]];
  return h('ul', { class: 'counts' }, entries.filter(([name, n]) => n > 0 || name === 'ok').map(([name, n]) => {
    const { word, shape, tone } = OUTCOME[name];
    return h('li', { key: name, class: `t-${tone}` }, icon(shape), h('b', {}, count(n)), word);
  }));
}

/** How much of its time is left, as a clock that runs down. */
function deadline(run, over, fact) {
  if (!run.deadline_at) return fact('deadline', 'none', 'run deadline');
  const whole = Math.round(secondsBetween(run.started_at ?? run.created_at, run.deadline_at));
  if (over) return fact('deadline', span(whole), 'run deadline');
  const left = (Date.parse(run.deadline_at) - now()) / 1000;
  const tone = left < 0.1 * whole ? 't-bad' : left < 0.25 * whole ? 't-late' : '';
  return h('div', { key: 'deadline', class: `fact ${tone}`, title: absolute(run.deadline_at) },
    h('span', { class: 'fact-value number' }, left > 0 ? counting(left) : 'now'),
    h('span', { class: 'fact-word' }, 'to its deadline'),
    h('span', { class: 'countdown', 'aria-hidden': 'true' },
      h('i', { style: { width: `${Math.max(0, Math.min(100, (100 * left) / whole))}%` } })));
}
