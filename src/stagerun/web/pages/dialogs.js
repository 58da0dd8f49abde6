// Questions to the person, and short answers: native dialogs, so that focus and Escape are right.

import { draw, h } from './dom.js';
import { icon } from './words.js';

/** Show a dialog; resolves to what `close(value)` was called with, or null. */
export function ask(title, content, extra = '') {
  return new Promise((resolve) => {
    const dialog = document.createElement('dialog');
    dialog.className = `dialog ${extra}`;
    dialog.setAttribute('aria-label', title);
    let answer = null;
    const close = (value = null) => {
      answer = value;
      dialog.close();
    };
    dialog.addEventListener('close', () => {
      dialog.remove();
      resolve(answer);
    });
    dialog.addEventListener('click', (event) => {
      if (event.target === dialog) close(); // the backdrop
    });
    document.body.append(dialog);
    draw(dialog, h('div', { class: 'dialog-body' }, h('h2', {}, title), content(close)));
    dialog.showModal();
  });
}

/** Ask before something that cannot be taken back. Resolves to the reason given, or null. */
export function confirmCancel(run) {
  return ask(`Cancel this run of ${run.pipeline}?`, (close) =>
    h(
      'form',
      {
        onsubmit: (event) => {
          event.preventDefault();
          close({ reason: event.target.elements.reason.value.trim() });
        },
      },
      h(
        'p',
        {},
        'Its work is told to stop; what does not is left behind after the grace, and named. ' +
          'Outcomes so far are kept, and a resume goes on with the rest.',
      ),
      h(
        'label',
        { class: 'field' },
        'Reason (kept with the run)',
        h('input', { name: 'reason', maxlength: 200, autocomplete: 'off', autofocus: true }),
      ),
      buttons(
        close,
        'Keep it running',
        h('button', { class: 'button danger', type: 'submit' }, 'Cancel the run'),
      ),
    ),
  );
}

export function askToken() {
  return ask('A token is needed', (close) =>
    h(
      'form',
      {
        onsubmit: (event) => {
          event.preventDefault();
          close(event.target.elements.token.value.trim());
        },
      },
      h(
        'p',
        {},
        "What changes a run needs the service's token. It stands in the address that ",
        h('code', {}, 'stagerun serve'),
        ' prints, in ',
        h('code', {}, 'STAGERUN_TOKEN'),
        ', or in the file ',
        h('code', {}, '<database>.token'),
        '. It is kept until this tab is closed.',
      ),
      h(
        'label',
        { class: 'field' },
        'Token',
        h('input', {
          name: 'token',
          type: 'password',
          required: true,
          autocomplete: 'off',
          autofocus: true,
        }),
      ),
      buttons(close, 'Not now', h('button', { class: 'button primary', type: 'submit' }, 'Use it')),
    ),
  );
}

const KEYS = [
  ['/', 'go to the filter'],
  ['j  k', 'next and previous run of the list'],
  ['Enter', 'open it'],
  ['c', 'cancel the run that is shown'],
  ['g r', 'all runs'],
  ['g p', 'pipelines'],
  ['g s', 'schedules'],
  ['t', 'dark, light, or as the system says'],
  ['← →', 'in a picture: from mark to mark'],
  ['Esc', 'close, leave the filter'],
  ['?', 'this help'],
];

export function showHelp() {
  return ask('Keys', (close) => [
    h(
      'dl',
      { class: 'keys' },
      KEYS.map(([key, meaning]) =>
        h(
          'div',
          { key },
          h(
            'dt',
            {},
            key.split('  ').map((each) => h('kbd', { key: each }, each)),
          ),
          h('dd', {}, meaning),
        ),
      ),
    ),
    buttons(close, 'Close'),
  ]);
}

export function buttons(close, leave, submit = null) {
  return h(
    'div',
    { class: 'dialog-buttons' },
    h('button', { class: 'button', type: 'button', onclick: () => close() }, leave),
    submit,
  );
}

/** Say what came of something, for some seconds. */
export function toast(text, tone = 'ok') {
  const shape = { ok: 'check', bad: 'octagon', late: 'warning', off: 'stop' }[tone] ?? 'dot';
  const place = document.createElement('div');
  draw(place, h('p', { class: `toast t-${tone}` }, icon(shape), h('span', {}, text)));
  document.getElementById('toasts').append(place);
  setTimeout(() => place.remove(), tone === 'ok' ? 5000 : 9000);
}
