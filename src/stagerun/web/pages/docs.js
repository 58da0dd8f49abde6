// The page of the API: openapi.json, drawn. Everything from the document is text.

/** Where the application is mounted: this file lies in its folder `static`. */
const BASE = new URL('../', import.meta.url);
const THEME = 'stagerun-theme';

/** Make an element: `make('p', {class: 'x'}, 'text', child)`. */
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

async function draw() {
  takeTheme();
  const about = document.getElementById('about');
  let api;
  try {
    const answer = await fetch(new URL('openapi.json', BASE));
    if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
    api = await answer.json();
  } catch (error) {
    about.textContent = `The document of the API cannot be read: ${error.message}. Load the page again.`;
    return;
  }
  about.replaceChildren(...inline(api.info.description));
  drawAccess(api);
  const index = document.getElementById('index');
  const operations = document.getElementById('operations');
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      index.append(make('a', { href: `#${operation.operationId}` }, badge(method), make('span', { class: 'path' }, path)));
      operations.append(drawOperation(api, path, method, operation));
    }
  }
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

/** The look that was chosen on the dashboard. */
function takeTheme() {
  try {
    const theme = localStorage.getItem(THEME);
    if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
  } catch { /* no storage allowed: then as the system has it */ }
}

function drawAccess(api) {
  const place = document.getElementById('access');
  place.hidden = false;
  place.className = 'operation';
  place.append(
    make('h3', {}, 'Access'),
    make('p', {}, inline(api.components.securitySchemes.token.description)),
    make('h3', {}, 'Try it'),
    curl(`export TOKEN=...\ncurl ${quoted(BASE.href)}runs -H "Authorization: Bearer $TOKEN"`),
  );
}

function drawOperation(api, path, method, operation) {
  const asked = operation.security.length ? (method === 'post' ? 'token' : 'token beyond this machine') : 'open';
  return make('section', { class: 'operation', id: operation.operationId },
    make('h2', {}, badge(method), path, make('span', { class: 'badge t-all' }, asked)),
    make('p', {}, inline(operation.summary)),
    names('Parameters', operation.parameters.map((each) => ({ ...each, about: each.description }))),
    names('Body', fields(operation)),
    make('h3', {}, 'Example'),
    curl(example(path, method, operation)),
    make('h3', {}, 'Answers'),
    make('ul', { class: 'statuses' }, Object.entries(operation.responses).map(([status, answer]) =>
      make('li', status >= 400 ? { class: 'refused' } : {}, make('b', {}, status), answer.description))),
    shape(api, operation));
}

function badge(method) {
  return make('span', { class: `method ${method}` }, method.toUpperCase());
}

/** Text in which `code` stands between backticks. */
function inline(text) {
  return text.split('`').map((part, place) => (place % 2 ? make('code', {}, part) : part));
}

function fields(operation) {
  const schema = operation.requestBody?.content['application/json'].schema;
  if (!schema) return [];
  return Object.entries(schema.properties).map(([name, each]) => (
    { name, about: each.description, schema: each, required: schema.required.includes(name), in: 'body' }));
}

function names(title, rows) {
  if (!rows.length) return null;
  return [make('h3', {}, title), make('table', { class: 'names' }, make('tbody', {}, rows.map((row) =>
    make('tr', {},
      make('td', {}, row.name, row.required ? make('span', { class: 'needed', title: 'needed' }, ' *') : null),
      make('td', {}, inline(row.about), ' ', make('span', { class: 'kind' }, kind(row))))))) ];
}

function kind({ schema, in: place }) {
  const of = schema.items?.enum ?? schema.enum;
  const said = [of ? of.join(' | ') : schema.type === 'array' ? 'list' : schema.type];
  if (schema.items?.enum) said.push('with commas between');
  if (schema.default !== undefined) said.push(`default ${schema.default}`);
  if (schema.maximum !== undefined && schema.maximum < 2 ** 53) said.push(`${schema.minimum} to ${schema.maximum}`);
  const most = schema.maxItems ?? schema.maxLength;
  if (most !== undefined) said.push(`at most ${most.toLocaleString('en')}${schema.type === 'string' ? ' characters' : ''}`);
  if (place === 'header' || place === 'path') said.push(`in the ${place}`);
  return said.join(', ');
}

/** A call that can be pasted into a shell. */
function example(path, method, operation) {
  const url = quoted(BASE.href.replace(/\/$/, '') + path.replace('{id}', 'latest').replace('{name}', path.startsWith('/static') ? 'app.css' : 'NAME'));
  const lines = [`curl ${path.endsWith('/events') ? '-N ' : ''}${method === 'post' ? '-X POST ' : ''}${url}`];
  if (operation.security.length) lines.push('-H "Authorization: Bearer $TOKEN"');
  if (method === 'post') {
    lines.push("-H 'Content-Type: application/json'", `-d ${quoted(JSON.stringify(sample(path)))}`);
  }
  return lines.join(' \\\n  ');
}

function sample(path) {
  if (path.endsWith('/cancel')) return { reason: 'not needed any more' };
  if (path.endsWith('/resume')) return { failed: true };
  return { pipeline: 'NAME', items: ['one', 'two'], labels: { project: 'demo' }, key: 'order-7' };
}

function quoted(text) {
  return /^[\w:/.,=-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

function curl(text) {
  const button = make('button', { class: 'button small', type: 'button' }, 'Copy');
  button.addEventListener('click', async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = 'Copied';
    } catch {
      button.textContent = 'Select it';
    }
    setTimeout(() => { button.textContent = 'Copy'; }, 1500);
  });
  return make('pre', { class: 'curl' }, text, button);
}

function shape(api, operation) {
  const answer = Object.entries(operation.responses).find(([status]) => status < 300);
  const schema = answer?.[1].content?.['application/json']?.schema;
  if (!schema) return null;
  return make('details', { class: 'shape' },
    make('summary', {}, `What ${schema.$ref.split('/').pop()} holds`),
    make('pre', {}, outline(api, schema, 0)));
}

/** A schema in a few lines: one name each, what is within indented. */
function outline(api, schema, depth) {
  const pad = '  '.repeat(depth);
  const target = resolved(api, schema);
  const inner = target.items ? resolved(api, target.items) : target;
  if (!inner.properties || depth > 4) return `${pad}${word(api, schema)}\n`;
  return Object.entries(inner.properties).map(([name, each]) => {
    const about = each.description ? `   ${each.description}` : '';
    const line = `${pad}${name}: ${word(api, each)}${about}\n`;
    const within = resolved(api, each);
    const deeper = within.properties || (within.items && resolved(api, within.items).properties);
    return deeper ? line + outline(api, within, depth + 1) : line;
  }).join('');
}

function resolved(api, schema) {
  const found = schema.anyOf ? schema.anyOf[0] : schema;
  return found.$ref ? api.components.schemas[found.$ref.split('/').pop()] : found;
}

function word(api, schema) {
  if (schema.anyOf) return `${word(api, schema.anyOf[0])} or null`;
  const target = resolved(api, schema);
  if (target.enum) return target.enum.join(' | ');
  const types = [target.type ?? 'anything'].flat();
  return types.map((type) => (type === 'array' ? 'list' : type)).join(' or ');
}

await draw();
