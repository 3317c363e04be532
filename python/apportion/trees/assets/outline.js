// The list: a line a node, opened and closed like folders. Only lines in the window are
// in the document, so that any number of nodes can be open.

const LINE = 28;
const INDENTED = 16; // levels that are indented; deeper ones carry their depth
const OPENED = 60; // lines opened at first

let opened = new Set();
let lines = [];

// Opens the most visited nodes until the list is long enough to see what the tree is.
function openFirst() {
  opened = new Set();
  const waiting = [0];
  let shown = 1;
  while (waiting.length && shown < OPENED) {
    let best = 0;
    for (let k = 1; k < waiting.length; k++) if (tree.weight[waiting[k]] > tree.weight[waiting[best]]) best = k;
    const [node] = waiting.splice(best, 1);
    if (!tree.children[node].length) continue;
    if (shown > 1 && shown + tree.children[node].length > OPENED) continue;
    opened.add(node);
    shown += tree.children[node].length;
    waiting.push(...tree.children[node]);
  }
}

function outline() {
  const rows = el("div", { className: "rows", role: "tree", tabIndex: 0, "aria-label": "Nodes" }, el("div", { className: "space" }));
  rows.addEventListener("scroll", () => drawLines(rows), { passive: true });
  rows.addEventListener("keydown", onKey);
  new ResizeObserver(() => drawLines(rows)).observe(rows);
  const find = el("input", { type: "search", placeholder: "Search texts", "aria-label": "Search texts" });
  let timer = 0;
  find.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => { state.query = find.value; found = null; reline(); nextMatch(0); }, 150);
  });
  find.addEventListener("keydown", (event) => { if (event.key === "Enter") nextMatch(event.shiftKey ? -1 : 1); });
  const action = (text, run) => el("button", { type: "button", onclick: () => { run(); reline(); } }, text);
  return el("section", { id: "outline", className: "card" },
    el("div", { className: "listhead" },
      data.texts ? find : null, el("span", { id: "matches", className: "faint", role: "status" }),
      action("Open all", () => { opened = new Set(tree.children.flatMap((list, node) => (list.length ? [node] : []))); }),
      action("Close all", () => { opened = new Set(); }),
      action(tree.counted ? "Most visited way" : "Widest way", () => { const way = mainLine(0); way.forEach((node) => opened.add(node)); choose(way.at(-1)); })),
    rows);
}

// Nodes whose text holds what is searched for, in the order of the list with all open.
let found = null;

function matches() {
  if (found) return found;
  found = [];
  const query = state.query.trim().toLowerCase();
  if (!query) return found;
  const hits = new Set(data.strings.flatMap((text, id) => (text.toLowerCase().includes(query) ? [id] : [])));
  const stack = [0];
  while (stack.length) {
    const node = stack.pop();
    if (hits.has(data.texts?.[tree.start + node])) found.push(node);
    for (let k = tree.children[node].length - 1; k >= 0; k--) stack.push(tree.children[node][k]);
  }
  return found;
}

function nextMatch(by) {
  const all = matches();
  const place = document.getElementById("matches");
  if (!state.query.trim()) { place.textContent = ""; return; }
  if (!all.length) { place.textContent = "no match"; return; }
  const now = all.indexOf(state.node);
  const next = by === 0 ? (now < 0 ? 0 : now) : (now + by + all.length) % all.length;
  choose(all[next]);
  place.textContent = `${count(next + 1)} of ${count(all.length)}`;
}

// The open lines anew, in order.
function reline() {
  lines = [];
  const stack = [0];
  while (stack.length) {
    const node = stack.pop();
    lines.push(node);
    if (!opened.has(node)) continue;
    for (let k = tree.children[node].length - 1; k >= 0; k--) stack.push(tree.children[node][k]);
  }
  const rows = document.querySelector(".rows");
  rows.firstChild.style.height = `${lines.length * LINE}px`;
  drawLines(rows);
}

function drawLines(rows) {
  const from = Math.max(0, Math.floor(rows.scrollTop / LINE) - 6);
  const to = Math.min(lines.length, Math.ceil((rows.scrollTop + rows.clientHeight) / LINE) + 6);
  const hits = new Set(matches());
  rows.firstChild.replaceChildren(...lines.slice(from, to).map((node, k) => line(node, from + k, hits)));
  rows.setAttribute("aria-activedescendant", `line-${state.node}`);
}

function line(node, place, hits) {
  const below = tree.children[node].length;
  const depth = tree.depth[node];
  const share = tree.weight[0] ? tree.weight[node] / tree.weight[0] : 0;
  const bar = el("i", {});
  bar.style.width = `${(share * 100).toFixed(2)}%`;
  const row = el("div", {
    id: `line-${node}`, role: "treeitem", className: `row${node === state.node ? " open" : ""}${hits.has(node) ? " match" : ""}`,
    "aria-level": String(depth + 1), "aria-selected": String(node === state.node),
    "data-node": String(node),
  },
  el("span", { className: "twist", "aria-hidden": "true" }, below ? (opened.has(node) ? "▾" : "▸") : ""),
  depth > INDENTED ? el("span", { className: "faint deep" }, `${depth}`) : null,
  shade(el("span", { className: "chip" }, short(valueOf(node))), node),
  el("span", { className: "bar" }, bar),
  el("span", { className: "visits" }, count(tree.weight[node])),
  el("span", { className: "words", dir: "auto" }, label(node).slice(0, 300).replace(/\s+/g, " ")),
  below && !opened.has(node) ? el("span", { className: "faint more" }, `+${count(tree.below[node])}`) : null);
  if (below) row.setAttribute("aria-expanded", String(opened.has(node)));
  row.style.top = `${place * LINE}px`;
  row.style.paddingLeft = `${4 + Math.min(depth, INDENTED) * (narrow.matches ? 8 : 16)}px`;
  return row;
}

function toggle(node) {
  if (!tree.children[node].length) return;
  if (opened.has(node)) opened.delete(node); else opened.add(node);
  reline();
}

// Opens what leads to a node and brings its line into view.
function reveal(node) {
  path(node).slice(0, -1).forEach((one) => opened.add(one));
  reline();
  const rows = document.querySelector(".rows");
  const top = lines.indexOf(node) * LINE;
  if (top < rows.scrollTop || top + LINE > rows.scrollTop + rows.clientHeight) {
    rows.scrollTop = Math.max(0, top - rows.clientHeight / 3);
    drawLines(rows);
  }
}

function onKey(event) {
  const here = lines.indexOf(state.node);
  const folded = !opened.has(state.node);
  const moves = {
    ArrowDown: () => lines[here + 1], ArrowUp: () => lines[here - 1], Home: () => 0, End: () => lines.at(-1),
    ArrowRight: () => {
      if (!tree.children[state.node].length) return undefined;
      if (!folded) return tree.children[state.node][0];
      toggle(state.node);
      return undefined;
    },
    ArrowLeft: () => {
      if (folded || !tree.children[state.node].length) return state.node ? parentOf(state.node) : undefined;
      toggle(state.node);
      return undefined;
    },
    Enter: () => { toggle(state.node); return undefined; },
  };
  if (!(event.key in moves)) return;
  event.preventDefault();
  const next = moves[event.key]();
  if (next !== undefined) choose(next);
}
