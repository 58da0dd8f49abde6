// A run's log lines as they come: levels in colour, a filter, and a pause.

import { get } from './api.js';
import { h } from './dom.js';
import { absolute, clockTime, count } from './format.js';
import { panel, select } from './parts.js';

const KEPT = 1500; // lines in the page; the database may have more
const PAGE = 500;
const RANK = { DEBUG: 0, INFO: 1, WARNING: 2, ERROR: 3, CRITICAL: 4 };
const TONES = { DEBUG: 'skip', INFO: 'wait', WARNING: 'late', ERROR: 'bad', CRITICAL: 'crash' };

export class Logs {
  constructor(path, show) {
    this.path = path;
    this.show = show;
    this.lines = new Map(); // by their number: a line that comes twice is one
    this.sorted = [];
    this.rows = new WeakMap();
    this.level = 'INFO';
    this.text = '';
    this.following = true; // as long as one stands at the end
    this.held = null; // what was there when somebody paused
  }

  async read() {
    try {
      let after = null;
      for (let pages = 0; pages * PAGE < KEPT; pages += 1) {
        const page = await get(`${this.path}/logs`, { after, limit: PAGE });
        this.add(page.logs);
        after = page.next;
        if (after === null || after === undefined || !page.logs.length) break;
      }
    } catch {
      /* the last lines stand in the run's document, the next ones come with its events */
    }
    this.show();
  }

  add(lines) {
    let fresh = false;
    for (const line of lines) {
      if (this.lines.has(line.seq)) continue;
      this.lines.set(line.seq, line);
      fresh = true;
    }
    if (!fresh) return;
    this.sorted = [...this.lines.values()].sort((a, b) => a.seq - b.seq);
    for (const line of this.sorted.splice(0, Math.max(0, this.sorted.length - KEPT)))
      this.lines.delete(line.seq);
  }

  view(run) {
    const source = this.held ?? this.sorted;
    const text = this.text.toLowerCase();
    const shown = source.filter(
      (line) =>
        (RANK[line.level] ?? 1) >= RANK[this.level] &&
        (!text || `${line.stage ?? ''} ${line.message}`.toLowerCase().includes(text)),
    );
    const missed = this.held ? this.sorted.length - this.held.length : 0;
    const active = run.finished_at === null;
    return panel(
      'logs',
      'Log',
      active &&
        h(
          'button',
          {
            type: 'button',
            class: 'button small',
            'aria-pressed': String(this.held !== null),
            onclick: () => this.pause(),
          },
          this.held ? `Go on${missed > 0 ? ` (${count(missed)} new)` : ''}` : 'Pause',
        ),
      h(
        'div',
        { class: 'log-tools' },
        h('input', {
          type: 'search',
          placeholder: 'Filter lines…',
          'aria-label': 'Filter log lines',
          'data-filter': true,
          spellcheck: 'false',
          oninput: (event) => {
            this.text = event.target.value.trim();
            this.show();
          },
        }),
        select(
          'Least level',
          [
            ['DEBUG', 'All levels'],
            ['INFO', 'Info and up'],
            ['WARNING', 'Warnings'],
            ['ERROR', 'Errors'],
          ],
          this.level,
          (level) => {
            this.level = level;
            this.show();
          },
        ),
      ),
      h(
        'div',
        {
          class: 'log',
          role: 'log',
          'aria-label': 'Log lines',
          tabindex: 0,
          mount: (element) => this.stick(element),
        },
        shown.length
          ? shown.map((each) => this.row(each))
          : h(
              'p',
              { class: 'quiet' },
              this.lines.size
                ? 'No line fits the filter.'
                : 'No line yet. What a stage says with ctx.log stands here.',
            ),
      ),
    );
  }

  /** A line never changes: nor does its row, so that a redraw passes over it. */
  row(each) {
    if (!this.rows.has(each)) this.rows.set(each, line(each));
    return this.rows.get(each);
  }

  pause() {
    this.held = this.held ? null : this.sorted;
    this.following = this.held === null;
    this.show();
  }

  /** Stay at the end while somebody looks at the end; stand still as soon as they scroll up. */
  stick(element) {
    element.addEventListener('scroll', () => {
      this.following = element.scrollHeight - element.scrollTop - element.clientHeight < 24;
    });
    new MutationObserver(() => {
      if (this.following && !this.held) element.scrollTop = element.scrollHeight;
    }).observe(element, { childList: true });
    requestAnimationFrame(() => {
      element.scrollTop = element.scrollHeight;
    });
  }
}

function line({ seq, time, level, stage, item, message }) {
  const tone = TONES[level] ?? 'wait';
  const where = stage ? `${stage}${item === null || item === undefined ? '' : ` ${item}`}` : '';
  return h(
    'p',
    { key: seq, class: `log-line t-${tone} ${(RANK[level] ?? 1) > 1 ? 'raised' : ''}` },
    h('time', { title: absolute(time) }, clockTime(time)),
    h('span', { class: 'log-level' }, level ?? ''),
    where && h('span', { class: 'log-where' }, where),
    h('span', { class: 'log-text' }, message),
  );
}
