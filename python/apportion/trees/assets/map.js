// The map: a row a depth, a node as wide as its share of visits, its children below it.
// A click opens a node; a click on the open node enlarges it. Everything in it can be
// reached by keyboard in the list.

const ROW = 20;
const LEAST = 0.8; // pixels below which nothing is drawn
const DEEPEST = 40; // rows drawn below the enlarged node

function map() {
  const box = el("div", { className: "mapbox" });
  const head = el("p", { className: "maphead" });
  const section = el("section", { id: "map", className: "card", "aria-label": "Map of the tree" }, head, box);
  const draw = () => drawMap(head, box);
  new ResizeObserver(draw).observe(box);
  section.addEventListener("redraw", draw);
  return section;
}

function drawMap(head, box) {
  const width = box.clientWidth;
  if (!width) return;
  const cells = [];
  let rows = 1, small = 0, deeper = 0;
  const stack = [[state.top, 0, width, 0]];
  while (stack.length) {
    const [node, x, wide, row] = stack.pop();
    cells.push(cell(node, x, wide, row));
    rows = Math.max(rows, row + 1);
    const below = tree.children[node];
    if (row + 1 === DEEPEST) { deeper += tree.below[node]; continue; }
    const sum = below.reduce((total, child) => total + tree.weight[child], 0);
    const whole = Math.max(sum, tree.weight[node]);
    let left = x;
    for (const child of below) {
      const own = whole ? (tree.weight[child] / whole) * wide : 0;
      if (own >= LEAST) stack.push([child, left, own, row + 1]);
      else small += 1 + tree.below[child];
      left += own;
    }
  }
  const height = rows * ROW;
  box.replaceChildren(svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, ...cells));
  const hidden = [small ? `${plural(small, "node")} too narrow or without visits` : null,
    deeper ? `${plural(deeper, "node")} deeper` : null].filter(Boolean);
  head.replaceChildren(
    el("span", {}, el("b", {}, "Map"), ` width is ${tree.counted ? "visits" : "leaves"}, colour is ${(state.colour ?? "nothing").replaceAll("_", " ")}`,
      hidden.length ? `; not drawn: ${hidden.join(", ")}` : ""),
    state.top ? el("button", { type: "button", onclick: () => { state.top = 0; redraw(); } }, "Whole tree") : "",
    state.node && state.node !== state.top && tree.children[state.node].length
      ? el("button", { type: "button", onclick: () => { state.top = state.node; redraw(); } }, "Enlarge the open node") : "");
}

function cell(node, x, wide, row) {
  const rect = svg("rect", { x: x.toFixed(2), y: row * ROW, width: Math.max(LEAST, wide - (wide > 3 ? 1 : 0)).toFixed(2), height: ROW - 1 });
  const group = svg("g", { class: node === state.node ? "cell open" : "cell" }, rect);
  group.dataset.node = node;
  if (wide > 46) {
    const text = svg("text", { x: (x + 4).toFixed(1), y: row * ROW + 14 });
    const words = label(node).replace(/\s+/g, " ");
    const fits = Math.floor((wide - 8) / 6.6);
    text.textContent = words.length > fits ? `${words.slice(0, Math.max(1, fits - 1))}…` : words;
    group.append(text);
  }
  return shade(group, node);
}
