// Numbers and moments in words for people.

const HOUR = 3600;
const DAY = 24 * HOUR;
const NUMBER = new Intl.NumberFormat('en-US');
// Made once: making one costs more than all that is done with it in a redraw.
const MOMENT = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'medium' });
const OUTCOMES = ['ok', 'skipped', 'failed', 'timed_out', 'crashed', 'cancelled'];

/** The outcomes in the order in which bars show them. */
export { OUTCOMES };

/** What the server's clock is ahead of ours, in milliseconds: ages are told by the server's. */
let ahead = 0;

export function setClock(serverTime) {
  const seen = typeof serverTime === 'string' ? Date.parse(serverTime) : serverTime;
  // An HTTP date has whole seconds: small differences say nothing.
  if (Number.isFinite(seen) && Math.abs(seen - now()) > 1500) ahead = seen - Date.now();
}

export function now() {
  return Date.now() + ahead;
}

/** Seconds from one moment to another (or to now); null where the first is unknown. */
export function secondsBetween(from, to = null) {
  if (!from) return null;
  return ((to ? Date.parse(to) : now()) - Date.parse(from)) / 1000;
}

/** A length of time: 840 ms, 3.2 s, 1 min 05 s, 2 h 03 min, 3 d 4 h. */
export function span(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return '–';
  const s = Math.max(0, seconds);
  if (s === 0) return '0 s';
  if (s < 0.0995) return `${trim(s * 1000, s < 0.00995 ? 1 : 0)} ms`;
  if (s < 0.995) return `${Math.round(s * 1000)} ms`;
  if (s < 59.95) return `${trim(s, s < 9.95 ? 1 : 0)} s`;
  if (s < DAY) return clock(s).replace(/ 00 (s|min)$/, '');
  return `${Math.floor(s / DAY)} d ${Math.floor((s % DAY) / HOUR)} h`;
}

/** The same for axes, where only round values stand: 90 s, 2 min, 1.5 h. */
export function roundSpan(seconds) {
  if (seconds < 59.9) return span(seconds);
  if (seconds < 120) return `${trim(seconds, 0)} s`;
  if (seconds < 2 * HOUR) return `${trim(seconds / 60, 1)} min`;
  if (seconds < 2 * DAY) return `${trim(seconds / HOUR, 1)} h`;
  return `${trim(seconds / DAY, 1)} d`;
}

/** A clock for what counts up or down every second; so it has whole seconds. */
export function counting(seconds) {
  if (seconds === null || !Number.isFinite(seconds)) return '–';
  return seconds < DAY ? clock(Math.max(0, Math.floor(seconds))) : span(seconds);
}

export function ago(moment) {
  const seconds = secondsBetween(moment);
  if (seconds === null) return '–';
  if (seconds < 2) return 'just now';
  if (seconds < 60) return `${Math.floor(seconds)} s ago`;
  if (seconds < HOUR) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < DAY) return `${Math.floor(seconds / HOUR)} h ago`;
  if (seconds < 60 * DAY) return `${Math.floor(seconds / DAY)} d ago`;
  return moment.slice(0, 10);
}

/** The whole moment, for titles. */
export function absolute(moment) {
  if (!moment) return '';
  return `${MOMENT.format(new Date(moment))} (${moment})`;
}

export function clockTime(moment) {
  const date = new Date(moment);
  return Number.isNaN(date.valueOf()) ? '' : date.toTimeString().slice(0, 8);
}

/** 1,234 */
export function count(number) {
  return NUMBER.format(number ?? 0);
}

/** 1,234 in little room: 980, 12k, 1.2M */
export function short(number) {
  if (number < 10_000) return count(number);
  if (number < 1_000_000) return `${trim(number / 1000, number < 99_500 ? 1 : 0)}k`;
  return `${trim(number / 1_000_000, 1)}M`;
}

/** Items a second, or a minute where that is easier to imagine. */
export function rate(perSecond) {
  if (perSecond === null || perSecond === undefined) return '–';
  if (perSecond === 0) return '0/s';
  if (perSecond < 0.95) return `${trim(perSecond * 60, perSecond * 60 < 9.95 ? 1 : 0)}/min`;
  return `${perSecond < 9.95 ? trim(perSecond, 1) : count(Math.round(perSecond))}/s`;
}

/** Never 100 before it is: percentages are cut, not rounded. */
export function percent(value, digits = 0) {
  if (value === null || value === undefined) return '–';
  const factor = 10 ** digits;
  return `${trim(Math.floor(value * factor + 1e-9) / factor, digits)} %`;
}

export function plural(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}

export function words(name) {
  return String(name ?? '').replaceAll('_', ' ');
}

/** Outcome counts added over stages. */
export function sumOutcomes(stages) {
  const sums = Object.fromEntries(OUTCOMES.map((name) => [name, 0]));
  for (const stage of stages) {
    for (const name of OUTCOMES) sums[name] += stage[name] ?? 0;
  }
  return sums;
}

function clock(s) {
  if (s < 60) return `${s} s`;
  return s < HOUR ? two(s, 60, 'min', 1, 's') : two(s, HOUR, 'h', 60, 'min');
}

function two(seconds, big, bigName, small, smallName) {
  const rest = Math.floor((seconds % big) / small);
  return `${Math.floor(seconds / big)} ${bigName} ${String(rest).padStart(2, '0')} ${smallName}`;
}

function trim(value, digits) {
  return value.toFixed(digits).replace(/\.0+$/, '');
}
