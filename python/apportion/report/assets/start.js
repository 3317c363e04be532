// The panel of a turn's numbers, the keyboard, and the first drawing of the page.

const tip = el("div", { id: "tip", role: "tooltip", hidden: true });

function numbersOf(turn) {
  const one = credit();
  const rows = data.credits.map((other, index) => [
    data.credits.length > 1 ? other.label : "credit", other.advantages[turn], index === state.credit]);
  for (const [name, values] of Object.entries(one.parts)) rows.push([name.replaceAll("_", " "), values[turn]]);
  if (one.within && one.within.low[turn] !== one.within.high[turn]) {
    rows.push(["lowest of its tokens", one.within.low[turn]], ["highest of its tokens", one.within.high[turn]]);
  }
  if (data.turns.reward !== null) rows.push(["turn reward", data.turns.reward[turn]]);
  rows.push(["tokens", data.turns.tokens[turn]]);
  return rows;
}

function showTip(card) {
  const rows = numbersOf(Number(card.dataset.turn));
  tip.replaceChildren(el("table", {}, el("caption", {}, `Turn ${card.dataset.k}`), el("tbody", {}, rows.map(([name, value, strong]) =>
    el("tr", { className: strong ? "strong" : "" }, el("th", { scope: "row" }, name), el("td", {}, exact(value)))))));
  tip.hidden = false;
  card.setAttribute("aria-describedby", "tip");
  tip.dataset.turn = card.dataset.turn;
  if (narrow.matches) { // there it is a sheet at the lower edge
    tip.style.left = tip.style.top = "";
    return;
  }
  const box = card.getBoundingClientRect();
  const own = tip.getBoundingClientRect();
  const right = box.right + 8 + own.width < innerWidth ? box.right + 8 : box.left - own.width - 8;
  tip.style.left = `${Math.max(8, right)}px`;
  tip.style.top = `${Math.max(8, Math.min(box.top, innerHeight - own.height - 8))}px`;
}

function hideTip() {
  if (tip.hidden) return;
  tip.hidden = true;
  document.querySelector('[aria-describedby="tip"]')?.removeAttribute("aria-describedby");
}

const cardOf = (event) => (event.target instanceof Element ? event.target.closest(".turn") : null);

function moveFocus(from, key) {
  const column = from.closest(".trajectory");
  const down = { ArrowDown: 1, ArrowUp: -1 }[key];
  if (down) return down > 0 ? from.nextElementSibling : from.previousElementSibling;
  const next = key === "ArrowRight" ? column.nextElementSibling : column.previousElementSibling;
  if (!next) return null;
  next.open = true;
  fillTrajectory(next);
  const cards = next.querySelectorAll(".turn");
  return cards[Math.min(Number(from.dataset.k), cards.length - 1)];
}

function listen() {
  const show = (event) => { const card = cardOf(event); card ? showTip(card) : hideTip(); };
  document.addEventListener("pointerover", (event) => { if (event.pointerType === "mouse") show(event); });
  document.addEventListener("focusin", show);
  document.addEventListener("click", show);
  document.addEventListener("scroll", hideTip, { capture: true, passive: true });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") return hideTip();
    if (!/^Arrow/.test(event.key) || !event.target.classList?.contains("turn")) return;
    const next = moveFocus(event.target, event.key);
    if (!next) return;
    event.preventDefault();
    next.scrollIntoView({ block: "nearest", inline: "nearest" });
    next.focus({ preventScroll: true });
    requestAnimationFrame(() => requestAnimationFrame(() => showTip(next)));
  });
  // Paper has no scrolling: everything of the open group is drawn before printing.
  addEventListener("beforeprint", () => {
    for (const node of document.querySelectorAll(".trajectory")) { node.open = true; fillTrajectory(node); }
  });
}

// After another method was chosen: every colour and number anew, the places kept.
function recolour() {
  document.getElementById("overview").replaceWith(overview());
  const board = document.querySelector(".board");
  const [left, top] = board ? [board.scrollLeft, board.scrollTop] : [0, 0];
  relist();
  draw();
  document.querySelector(".board")?.scrollTo(left, top);
}

document.getElementById("app").append(header(), overview(),
  el("main", {}, list(), el("section", { id: "detail", "aria-label": "Group" })), tip);
listen();
const asked = Number(/^#group-(\d+)$/.exec(location.hash)?.[1] ?? NaN);
if (asked < data.groups.length) state.group = asked;
refresh();
document.documentElement.dataset.ready = "yes";
