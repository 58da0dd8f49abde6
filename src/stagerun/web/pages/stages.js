// The stages of a run, from the source to the last one: what each took in and what became of it.

import { h } from './dom.js';
import { OUTCOMES, count, plural, short, span } from './format.js';
import { bar, panel } from './parts.js';
import { KINDS, OUTCOME, STATUSES, icon, look } from './words.js';

const BAR = ['ok', 'skipped', 'failed', 'timed_out', 'crashed', 'cancelled', 'in_flight'];
const MANY = 12;

export function stagesPanel(run, charts) {
  const { stages } = run;
  const busiest = bottleneck(stages, run.finished_at === null);
  const widest = Math.max(1, ...stages.map((stage) => stage.accepted));
  const measured = new Map((charts?.stages ?? []).map((each) => [each.name, each]));
  return panel(
    'stages',
    stages.length > MANY ? `${stages.length} stages` : 'Stages',
    h(
      'span',
      { class: 'quiet' },
      run.source_length === null || run.source_length === undefined
        ? 'length of the source unknown'
        : `${plural(run.source_length, 'item')} from the source`,
    ),
    stages.length
      ? h(
          'ol',
          { class: `stages ${stages.length > MANY ? 'many' : ''}` },
          stages.map((stage) =>
            row(stage, measured.get(stage.name), stage.name === busiest, widest),
          ),
        )
      : h('p', { class: 'quiet' }, 'It has not begun yet.'),
  );
}

/** The stage with the most items waiting, when it stands out while the run is under way. */
function bottleneck(stages, active) {
  if (!active || stages.length < 2) return null;
  const [first, second] = [...stages].sort((a, b) => b.waiting - a.waiting);
  return first.waiting > 4 && first.waiting > 2 * second.waiting ? first.name : null;
}

function row(stage, measured, busiest, widest) {
  const { shape, tone, word } = look(STATUSES, stage.status);
  const parts = BAR.map((name) => ({ name, n: stage[name] }));
  const settled = OUTCOMES.reduce((sum, name) => sum + stage[name], 0);
  const label =
    `${stage.name}: ${count(settled)} of ${count(stage.accepted)} settled` +
    BAR.filter((name) => stage[name])
      .map((name) => `, ${count(stage[name])} ${OUTCOME[name].word}`)
      .join('');
  return h(
    'li',
    { key: stage.name, title: label, class: `stage t-${tone} ${stage.in_flight ? 'active' : ''}` },
    h('span', { class: 'stage-node', title: word }, icon(shape)),
    h(
      'div',
      { class: 'stage-name' },
      h('strong', { class: 'cut', title: stage.name }, stage.name),
      h('span', { class: 'quiet' }, KINDS[stage.kind] ?? stage.kind),
      busiest &&
        h(
          'span',
          { class: 'badge t-late', title: 'More items wait here than anywhere else' },
          'bottleneck',
        ),
    ),
    h(
      'div',
      { class: 'stage-flow' },
      h(
        'div',
        {
          class: 'stage-bar',
          style: { width: `${Math.max(8, (100 * stage.accepted) / widest)}%` },
        },
        bar(parts, stage.accepted, label, 'thick'),
      ),
      h(
        'ul',
        { class: 'counts' },
        stage.accepted
          ? [...OUTCOMES, 'in_flight', 'waiting']
              .filter((name) => stage[name] > 0)
              .map((name) => {
                const kind = OUTCOME[name];
                return h(
                  'li',
                  { key: name, class: `t-${kind.tone}` },
                  icon(kind.shape),
                  h('b', {}, count(stage[name])),
                  kind.word,
                );
              })
          : h('li', { class: 'quiet' }, 'nothing came yet'),
      ),
      stage.error &&
        h(
          'p',
          { class: 'stage-error cut', title: stage.error.message },
          h('code', {}, stage.error.code),
          ' ',
          stage.error.message,
        ),
    ),
    h(
      'div',
      { class: 'stage-end' },
      h(
        'span',
        { class: 'stage-count number', title: 'settled of accepted' },
        h('b', {}, short(settled)),
        ` / ${short(stage.accepted)}`,
      ),
      workers(stage),
      limits(stage, measured),
    ),
  );
}

/** Each worker a square, filled while it works: one sees at once whether more would help. */
function workers({ workers: all, in_flight: busy, name }) {
  if (!all) return null;
  const says = `${count(busy)} of ${plural(all, 'worker')} of ${name} busy`;
  if (all > 12)
    return h(
      'span',
      { class: 'workers number', title: says },
      `${count(busy)} / ${count(all)} workers`,
    );
  return h(
    'span',
    { class: 'workers', role: 'img', 'aria-label': says, title: says },
    Array.from({ length: all }, (_, place) =>
      h('i', { key: place, class: place < busy ? 'busy' : '' }),
    ),
  );
}

function limits(stage, measured) {
  const deadline = measured?.deadline ?? stage.deadline;
  if (!measured?.count)
    return h('span', { class: 'quiet number' }, deadline ? `≤ ${span(deadline)}` : 'no deadline');
  const tight = measured.headroom !== null && measured.headroom < 0.2;
  return h(
    'span',
    {
      class: `number ${tight ? 'tight t-late' : 'quiet'}`,
      title: `half of its items took at most ${span(measured.p50)}, 99 % at most ${span(measured.p99)}`,
    },
    tight && icon('warning'),
    `p50 ${span(measured.p50)} · p99 ${span(measured.p99)}`,
  );
}
