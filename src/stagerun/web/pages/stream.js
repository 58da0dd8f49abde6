// Server-sent events by fetch: EventSource cannot send a token, nor tell why it was refused.

import { address, headers } from './api.js';
import { ended } from './words.js';

const SILENCE = 25_000; // the server says something every 10 s; after this the line is dead
const UNSEEN = 30_000; // a hidden tab gives its connection back: browsers have six for a server
const PAUSES = [500, 1000, 2000, 5000, 10_000];

/**
 * Follow a run's events until its generation ends.
 * `onEvent(kind, data)` hears each; `onState` hears `connecting`, `live`, `reconnecting`, `ended`.
 * Returns a function that stops it.
 */
export function follow(path, { onEvent, onState }) {
  let stopped = false;
  let last = null;
  let over = false;
  let failures = 0;
  let controller = null;
  let wakeUp = () => {};

  async function connect() {
    controller = new AbortController();
    let watchdog = null;
    const alive = () => {
      clearTimeout(watchdog);
      watchdog = setTimeout(() => controller.abort(), SILENCE);
    };
    try {
      alive();
      const extra = { Accept: 'text/event-stream', ...(last && { 'Last-Event-ID': last }) };
      const response = await fetch(address(path), {
        headers: headers(extra),
        signal: controller.signal,
        cache: 'no-store',
      });
      if (response.status === 204) {
        over = true;
        return;
      }
      if (!response.ok) throw new Error(`answered ${response.status}`);
      onState('live');
      await read(response.body, alive);
    } finally {
      clearTimeout(watchdog);
    }
  }

  async function read(body, alive) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = '';
    for (;;) {
      const { value, done } = await reader.read();
      if (done || stopped) return;
      alive();
      rest += value.replaceAll('\r\n', '\n');
      const frames = rest.split('\n\n');
      rest = frames.pop();
      for (const frame of frames) take(frame);
    }
  }

  function take(frame) {
    const event = { kind: 'message', data: '' };
    for (const line of frame.split('\n')) {
      const colon = line.indexOf(':');
      const field = line.slice(0, colon);
      const text = line.slice(colon + 1).replace(/^ /, '');
      if (field === 'id') last = text;
      else if (field === 'event') event.kind = text;
      else if (field === 'data') event.data += text;
    }
    if (!event.data) return; // a ping, or the retry line
    failures = 0;
    let data;
    try {
      data = JSON.parse(event.data);
    } catch {
      return; // a broken frame is not worth the page
    }
    over = event.kind === 'run' && ended(data.status);
    onEvent(event.kind, data);
  }

  let leaving = null;
  function looked() {
    clearTimeout(leaving);
    if (document.hidden) leaving = setTimeout(() => controller?.abort(), UNSEEN);
    else wakeUp();
  }
  document.addEventListener('visibilitychange', looked);

  async function loop() {
    onState('connecting');
    while (!stopped && !over) {
      try {
        await connect();
      } catch {
        /* told by the state, and tried again */
      }
      if (stopped || over) break;
      onState('reconnecting');
      const pause = PAUSES[Math.min(failures, PAUSES.length - 1)];
      failures += 1;
      await new Promise((resolve) => {
        wakeUp = resolve;
        if (!document.hidden) setTimeout(resolve, pause);
      });
    }
    if (!stopped) onState('ended');
  }

  loop();
  return () => {
    stopped = true;
    document.removeEventListener('visibilitychange', looked);
    clearTimeout(leaving);
    controller?.abort();
    wakeUp();
  };
}
