// Talking to the server: relative addresses, the token in a header, errors as sentences.

import { setClock } from './format.js';

/** Where the application is mounted: this file lies in its folder `static`. */
const BASE = new URL('../', import.meta.url);
const TOKEN = 'stagerun-token';

/** What went wrong, in the server's words for people. */
export class Problem extends Error {
  constructor(title, detail, status, document = {}) {
    super(detail || title);
    this.title = title;
    this.status = status;
    this.document = document;
  }
}

/** Set by the application: asks the person for a token, resolves to it or to null. */
let askForToken = async () => null;
let asking = null;
let declined = false;

export function onUnauthorised(ask) {
  askForToken = ask;
}

/** Take a token that came behind the `#` and wipe it from the address. */
export function takeToken() {
  const found = /^#token=([^&]+)/.exec(location.hash);
  if (!found) return;
  keepToken(decodeURIComponent(found[1]));
  history.replaceState(null, '', `${location.pathname}${location.search}#/`);
}

function keepToken(token) {
  declined = false;
  try {
    if (token) sessionStorage.setItem(TOKEN, token);
    else sessionStorage.removeItem(TOKEN);
  } catch {
    /* no storage allowed: then it is asked for again */
  }
}

/** Whoever said no to the question for a token may change their mind. */
export function askAgain() {
  declined = false;
}

export function headers(extra = {}) {
  let token = null;
  try {
    token = sessionStorage.getItem(TOKEN);
  } catch {
    /* as above */
  }
  return token ? { ...extra, Authorization: `Bearer ${token}` } : extra;
}

export function address(path, query = {}) {
  const url = new URL(path, BASE);
  for (const [name, value] of Object.entries(query)) {
    for (const each of [value].flat()) {
      if (each !== null && each !== undefined && each !== '') url.searchParams.append(name, each);
    }
  }
  return url;
}

export function get(path, query = {}, options = {}) {
  return request(address(path, query), { ...options, headers: { Accept: 'application/json' } });
}

export function post(path, body) {
  return request(
    address(path),
    {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', Accept: 'application/json' },
      body: JSON.stringify(body),
    },
    true,
  );
}

async function request(url, options, wanted = false) {
  const response = await send(url, options);
  if (response.status === 401 && (wanted || !declined) && (await newToken())) {
    return answer(await send(url, options));
  }
  return answer(response);
}

async function send(url, options) {
  try {
    return await fetch(url, { ...options, headers: headers(options.headers), cache: 'no-store' });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Problem('No answer', 'The server does not answer. It is tried again.', 0);
  }
}

/** Ask once, however many requests find out at the same time that a token is missing. */
function newToken() {
  asking ??= askForToken().then((token) => {
    if (token) keepToken(token);
    else declined = true;
    asking = null;
    return token;
  });
  return asking;
}

async function answer(response) {
  const date = response.headers.get('Date');
  if (date) setClock(date);
  if (response.status === 204) return null;
  const text = await response.text();
  let document = null;
  try {
    document = JSON.parse(text);
  } catch {
    /* an error page of a proxy, for example */
  }
  if (response.ok && document !== null) return document;
  const title = document?.title ?? response.statusText ?? 'Error';
  const detail = document?.detail ?? `The server answered ${response.status} ${title}.`;
  throw new Problem(title, String(detail), response.status, document ?? {});
}

/**
 * Do something now and again and again, never twice at once, and not while the page is hidden.
 * Returns { now, stop }: `now()` does not wait for the next turn.
 */
export function every(milliseconds, work) {
  let timer = null;
  let busy = false;
  let again = false;
  let stopped = false;
  async function turn() {
    clearTimeout(timer);
    if (stopped || document.hidden) return;
    if (busy) {
      again = true;
      return;
    }
    busy = true;
    try {
      await work();
    } finally {
      busy = false;
      const delay = again ? 0 : milliseconds;
      again = false;
      if (!stopped) timer = setTimeout(turn, delay);
    }
  }
  const wake = () => {
    if (!document.hidden) turn();
  };
  document.addEventListener('visibilitychange', wake);
  turn();
  return {
    now: turn,
    stop() {
      stopped = true;
      clearTimeout(timer);
      document.removeEventListener('visibilitychange', wake);
    },
  };
}
