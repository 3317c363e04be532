// The open node: its way from the root, its text, its numbers; and the panel on hover.

const tip = el("div", { id: "tip", role: "tooltip", hidden: true });
const SPELT = 700; // characters of a text in the panel on hover

function numbersOf(node) {
  const rows = [["depth", tree.depth[node]], ["children", tree.children[node].length], ["nodes below", tree.below[node]]];
  if (!tree.counted) rows.push(["leaves", tree.weight[node]]);
  for (const name of Object.keys(columns)) rows.push([name.replaceAll("_", " "), at(name, node)]);
  return rows;
}

const grouping = (value) => (value === null ? "–" : Number.isInteger(value) && value >= 1000 ? count(value) : exact(value));

function detail() {
  const node = state.node;
  const text = textOf(node);
  const way = path(node);
  const link = (one) => el("button", { type: "button", className: "link", onclick: () => choose(one) },
    one ? label(one).slice(0, 40).replace(/\s+/g, " ") : "root");
  const crumbs = way.length > 8 ? [...way.slice(0, 3), null, ...way.slice(-4)] : way;
  return el("section", { id: "detail", className: "card", "aria-label": "Open node", "aria-live": "polite" },
    el("p", { className: "crumbs" }, crumbs.map((one, k) => [k ? el("span", { className: "faint" }, " › ") : null,
      one === null ? el("span", { className: "faint" }, `${way.length - 7} more`) : link(one)])),
    text !== null ? shade(el("div", { className: "text", dir: "auto" }, text), node)
      : el("p", { className: "faint" }, data.texts ? "This node has no text." : "These trees have no texts."),
    el("table", {}, el("tbody", {}, numbersOf(node).map(([name, value]) =>
      el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, grouping(value)))))),
    text !== null && node ? el("details", {}, el("summary", {}, "The whole way as text"),
      el("div", { className: "way" }, way.map((one) => shade(el("div", { className: "text", dir: "auto" }, textOf(one) ?? label(one)), one)))) : null);
}

function showTip(target, node) {
  const text = textOf(node);
  const value = state.colour === null ? null : el("b", {}, `${state.colour.replaceAll("_", " ")} ${short(valueOf(node))}`);
  const spelt = text !== null && text.length > SPELT ? `${text.slice(0, SPELT)}…` : text;
  tip.replaceChildren(el("div", { className: "tiphead" }, value, ` · ${plural(tree.weight[node], tree.counted ? "visit" : "leaf").replace("leafs", "leaves")} · depth ${tree.depth[node]}`),
    el("div", { className: "text", dir: "auto" }, spelt ?? label(node)));
  tip.hidden = false;
  const box = target.getBoundingClientRect();
  const own = tip.getBoundingClientRect();
  const below = box.bottom + 8 + own.height < innerHeight ? box.bottom + 8 : box.top - own.height - 8;
  tip.style.left = `${Math.max(8, Math.min(box.left, innerWidth - own.width - 8))}px`;
  tip.style.top = `${Math.max(8, below)}px`;
}
