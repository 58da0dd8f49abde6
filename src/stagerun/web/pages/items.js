// The items of a run by outcome, with their causes, page by page.

import { get } from './api.js';
import { h } from './dom.js';
import { OUTCOMES, count, span, sumOutcomes, words } from './format.js';
import { panel, select, trouble } from './parts.js';
import { OUTCOME, icon, outcomeMark } from './words.js';

const PAGE = 25;
const BAD = ['failed', 'timed_out', 'crashed', 'cancelled'];

export class Items {
  constructor(path, show) {
    this.path = path;
    this.show = show;
    this.outcome = null; // null: nobody has chosen yet; what went wrong, where anything did
    this.stage = '';
    this.cursors = [null];
    this.page = null;
    this.problem = null;
    this.run = null;
  }

  choose(changes) {
    Object.assign(this, changes);
    this.cursors = [null];
    this.read();
  }

  /** The first page changes while the run goes on; an older one stays as it was read. */
  refresh() {
    return this.cursors.length === 1 ? this.read() : null;
  }

  async read() {
    const asked = `${this.outcome}/${this.stage}/${this.cursors.at(-1)}`;
    this.asked = asked;
    try {
      const page = await get(`${this.path}/items`, {
        outcome: this.wanted(),
        stage: this.stage,
        after: this.cursors.at(-1),
        limit: PAGE,
      });
      if (this.asked !== asked) return; // somebody has chosen otherwise meanwhile
      this.page = page;
      this.problem = null;
    } catch (error) {
      this.problem = error;
    }
    this.show();
  }

  wanted() {
    if (this.outcome === null) return this.bad() ? BAD.join(',') : '';
    return this.outcome;
  }

  bad() {
    const sums = sumOutcomes(this.run?.stages ?? []);
    return BAD.reduce((sum, name) => sum + sums[name], 0);
  }

  view(run) {
    this.run = run;
    const sums = sumOutcomes(
      run.stages.filter((stage) => !this.stage || stage.name === this.stage),
    );
    const all = OUTCOMES.reduce((sum, name) => sum + sums[name], 0);
    const bad = BAD.reduce((sum, name) => sum + sums[name], 0);
    const chosen = this.wanted();
    const option = (value, text, n, shape, tone) =>
      h(
        'button',
        {
          key: value,
          type: 'button',
          class: tone ? `t-${tone}` : '',
          'aria-pressed': String(chosen === value),
          onclick: () => this.choose({ outcome: value }),
        },
        shape && icon(shape),
        text,
        h('b', {}, count(n)),
      );
    return panel(
      'items',
      'Items',
      run.stages.length > 1 &&
        select(
          'Stage',
          [['', 'All stages'], ...run.stages.map(({ name }) => [name, name])],
          this.stage,
          (stage) => this.choose({ stage }),
        ),
      h(
        'div',
        { class: 'choice outcomes', role: 'group', 'aria-label': 'Outcome' },
        option('', 'all', all),
        bad > 0 && option(BAD.join(','), 'not ok', bad, 'warning', 'bad'),
        OUTCOMES.filter((name) => sums[name]).map((name) =>
          option(name, OUTCOME[name].word, sums[name], OUTCOME[name].shape, OUTCOME[name].tone),
        ),
      ),
      trouble(this.problem, () => this.read()),
      this.table(),
      this.paging(),
    );
  }

  table() {
    if (!this.page) return h('p', { class: 'quiet' }, 'Loading…');
    if (!this.page.items.length) return h('p', { class: 'quiet' }, 'No item has such an outcome.');
    return h(
      'div',
      { class: 'scroll' },
      h(
        'table',
        { class: 'items' },
        h(
          'thead',
          {},
          h(
            'tr',
            {},
            ['Item', 'Stage', 'Outcome', 'Attempts', 'Took', 'Cause'].map((title) =>
              h('th', { key: title, scope: 'col' }, title),
            ),
          ),
        ),
        h(
          'tbody',
          {},
          this.page.items.map((item) =>
            h(
              'tr',
              { key: `${item.stage}/${item.item}` },
              h('td', { class: 'number' }, item.item),
              h('td', { class: 'stage-cell cut', title: item.stage }, item.stage),
              h('td', {}, outcomeMark(item.outcome)),
              h('td', { class: item.attempts > 1 ? 'strong number' : 'number' }, item.attempts),
              h('td', { class: 'number' }, span(item.seconds)),
              h('td', { class: 'cause' }, because(item)),
            ),
          ),
        ),
      ),
    );
  }

  paging() {
    if (this.cursors.length === 1 && !this.page?.next) return null;
    return h(
      'nav',
      { class: 'paging', 'aria-label': 'Pages of items' },
      h(
        'button',
        {
          type: 'button',
          class: 'button small',
          disabled: this.cursors.length === 1,
          onclick: () => {
            this.cursors.pop();
            this.read();
          },
        },
        '← Back',
      ),
      h('span', { class: 'quiet' }, `page ${this.cursors.length}`),
      h(
        'button',
        {
          type: 'button',
          class: 'button small',
          disabled: !this.page?.next,
          onclick: () => {
            this.cursors.push(this.page.next);
            this.read();
          },
        },
        'Next →',
      ),
    );
  }
}

function because({ cause, message, error, late_seconds: late }) {
  if (!cause) return null;
  return [
    h('code', { key: 'cause' }, error ?? words(cause)),
    ' ',
    message,
    late !== null &&
      late !== undefined &&
      h(
        'span',
        { key: 'late', class: 'mark t-late' },
        ` its code went on for ${span(late)} after that`,
      ),
  ];
}
