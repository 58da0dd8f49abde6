// Starting a run by hand: the pipeline, its items as JSON lines, and labels.

import { post } from './api.js';
import { ask, buttons, toast } from './dialogs.js';
import { draw, h } from './dom.js';
import { plural } from './format.js';

export async function openStart(pipelines, chosen = pipelines[0]?.name) {
  const started = await ask(
    'Start a run',
    (close) =>
      h(
        'form',
        {
          class: 'start',
          onsubmit: (event) => {
            event.preventDefault();
            submit(event.target, pipelines, close);
          },
        },
        h(
          'label',
          { class: 'field' },
          'Pipeline',
          h(
            'select',
            { name: 'pipeline', value: chosen },
            pipelines.map(({ name }) => h('option', { key: name, value: name }, name)),
          ),
        ),
        h(
          'label',
          { class: 'field' },
          'Items: one JSON value a line; a line that is none is taken as text',
          h('textarea', {
            name: 'items',
            rows: 6,
            spellcheck: 'false',
            autofocus: true,
            placeholder: '"https://example.org/a"\n{"page": 2}\n42',
          }),
        ),
        h(
          'label',
          { class: 'field' },
          'Labels',
          h('input', {
            name: 'labels',
            placeholder: 'project=demo, customer=acme',
            autocomplete: 'off',
          }),
        ),
        h('p', { class: 'trouble t-bad', role: 'alert', hidden: true, 'data-error': true }),
        buttons(
          close,
          'Not now',
          h('button', { class: 'button primary', type: 'submit' }, 'Start'),
        ),
      ),
    'wide',
  );
  if (started) location.hash = `#/runs/${started.id}`;
}

async function submit(form, pipelines, close) {
  const { pipeline, items, labels } = form.elements;
  const body = { pipeline: pipeline.value };
  const known = pipelines.find((each) => each.name === pipeline.value);
  const values = itemsOf(items.value);
  // Without items the pipeline's own source is read, where it has one.
  if (values.length || !known?.has_source) body.items = values;
  const error = form.querySelector('[data-error]');
  const button = form.querySelector('[type=submit]');
  button.disabled = true;
  try {
    body.labels = labelsOf(labels.value);
    const run = await post('runs', body);
    toast(
      `Started ${run.pipeline} with ${values.length ? plural(values.length, 'item') : 'its own source'}.`,
    );
    close(run);
  } catch (problem) {
    error.hidden = false;
    draw(error, problem.message);
    button.disabled = false;
  }
}

function itemsOf(text) {
  return text
    .split('\n')
    .map((line) => line.trim())
    .filter(Boolean)
    .map((line) => {
      try {
        return JSON.parse(line);
      } catch {
        return line;
      }
    });
}

function labelsOf(text) {
  const pairs = text
    .split(',')
    .map((each) => each.trim())
    .filter(Boolean);
  return Object.fromEntries(
    pairs.map((pair) => {
      const [name, ...value] = pair.split('=');
      if (!name.trim() || !value.length)
        throw new Error(`“${pair}” is no label: write name=value.`);
      return [name.trim(), value.join('=').trim()];
    }),
  );
}
