// Why a run stands where it stands, or how it ended: one sentence, and the oldest work under way.

import { h } from './dom.js';
import { counting, plural, span, words } from './format.js';
import { STATUSES, VERDICTS, ended, icon, look } from './words.js';

const OLDEST = 3; // attempts that are shown

/** One sentence: what it waits for, or how it ended; in the verdict's colour when it is not fine. */
export function reason({ run, why: asked }) {
  const over = ended(run.status);
  // What was told while it ran says nothing any more once it has ended, and the other way round.
  const why = asked && Boolean(asked.ended) === over ? asked : null;
  const verdict = VERDICTS[run.verdict];
  const bad = verdict ?? (over && run.status !== 'succeeded' ? look(STATUSES, run.status) : null);
  // Its cause stands in the label already.
  const says = over
    ? (why?.summary ?? run.message ?? '').replace(/^It ended [^:]*: /, '')
    : (why?.summary ?? run.message);
  if (!says && !verdict) return null;
  const working = over ? [] : oldest(why);
  return h(
    'div',
    { class: `reason ${bad ? `loud t-${bad.tone}` : ''}` },
    verdict &&
      h(
        'p',
        { class: 'reason-verdict' },
        icon('warning'),
        h('b', {}, words(run.verdict)),
        ' ',
        verdict.says,
      ),
    says &&
      h(
        'p',
        { class: 'reason-why' },
        h('span', { class: 'reason-label' }, over ? words(run.cause ?? 'ended') : 'why'),
        says,
      ),
    run.message &&
      why?.summary &&
      !over &&
      h('p', { class: 'reason-report' }, h('span', { class: 'reason-label' }, 'says'), run.message),
    working.length > 0 &&
      h(
        'ul',
        { class: 'oldest', 'aria-label': 'Oldest work under way' },
        working.map((each) =>
          h(
            'li',
            { key: each.key },
            h('span', { class: 'number strong' }, span(each.seconds)),
            h('span', { class: 'cut' }, each.who),
            h('code', { class: 'cut', title: each.code }, each.place),
            h('span', { class: 'number quiet' }, each.cut),
          ),
        ),
      ),
    run.survivors?.length > 0 &&
      h(
        'p',
        { class: 'survivors' },
        icon('warning'),
        h(
          'span',
          {},
          h('b', {}, plural(run.survivors.length, 'survivor')),
          ' still ran when it ended: ',
          run.survivors.join('; '),
        ),
      ),
  );
}

/** The attempts that have been under way for longest, with the line that each stands at. */
function oldest(why) {
  const working = (why?.stages ?? []).flatMap((stage) =>
    (stage.working ?? []).map((each) => {
      const place = each.places?.find((one) => one.own) ?? each.places?.[0];
      const items = each.items ?? [];
      return {
        key: `${stage.name}/${items[0]}/${each.attempt}`,
        seconds: each.seconds,
        who:
          `${stage.name} ${items.length === 1 ? `item ${items[0]}` : plural(items.length, 'item')}` +
          (each.attempt > 1 ? `, attempt ${each.attempt} of ${each.attempts}` : ''),
        place: place ? `${place.file}:${place.line} ${place.function}` : '',
        code: place
          ? [place.code, place.awaits && `awaits ${place.awaits}`].filter(Boolean).join(' – ')
          : '',
        cut: cutIn(each),
      };
    }),
  );
  return working.sort((a, b) => b.seconds - a.seconds).slice(0, OLDEST);
}

function cutIn({ cut_in: left, cut_for: since }) {
  if (since !== null && since !== undefined) return `cut ${counting(since)} ago, still runs`;
  if (left === null || left === undefined) return '';
  return left > 0 ? `cut in ${counting(left)}` : 'overdue';
}
