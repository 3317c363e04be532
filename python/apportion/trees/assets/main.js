// What happens on a choice, and the first drawing of the page.

// Controls are made anew with the rest; whichever had the keyboard keeps it.
function recontrol() {
  const old = document.getElementById("controls");
  const inputs = (box) => [...box.querySelectorAll("select, button")];
  const place = inputs(old).indexOf(document.activeElement);
  const fresh = controls();
  old.replaceWith(fresh);
  if (place >= 0) inputs(fresh)[place]?.focus();
}

function redraw() {
  recontrol();
  document.getElementById("map").dispatchEvent(new Event("redraw"));
  document.getElementById("detail").replaceWith(detail());
  reline();
}

function choose(node) {
  state.node = node;
  tip.hidden = true;
  if (!path(node).includes(state.top)) state.top = 0;
  document.getElementById("map").dispatchEvent(new Event("redraw"));
  document.getElementById("detail").replaceWith(detail());
  reveal(node);
  history.replaceState(null, "", `#tree-${state.tree}-${node}`);
}

function openTree(number, node = 0) {
  state.tree = number;
  state.node = node;
  state.top = 0;
  found = null;
  load(number);
  openFirst();
  path(node).slice(0, -1).forEach((one) => opened.add(one));
  if (!document.getElementById("map")) return;
  redraw();
  reveal(node);
  document.getElementById("matches").textContent = "";
  history.replaceState(null, "", `#tree-${number}-${node}`);
}

const nodeAt = (event) => (event.target instanceof Element ? event.target.closest("[data-node]") : null);

function listen() {
  document.addEventListener("click", (event) => {
    const place = nodeAt(event);
    if (!place) return;
    const node = Number(place.dataset.node);
    if (place.classList.contains("row")) {
      if (node === state.node || event.target.closest(".twist")) toggle(node);
      if (node !== state.node) choose(node);
    } else if (node === state.node && tree.children[node].length) {
      state.top = node === state.top ? 0 : node;
      redraw();
    } else choose(node);
  });
  document.addEventListener("pointerover", (event) => {
    if (event.pointerType !== "mouse") return;
    const place = nodeAt(event);
    if (place) showTip(place, Number(place.dataset.node)); else tip.hidden = true;
  });
  document.addEventListener("scroll", () => { tip.hidden = true; }, { capture: true, passive: true });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });
}

const asked = /^#tree-(\d+)-(\d+)$/.exec(location.hash)?.slice(1).map(Number);
const known = asked && asked[0] < trees && asked[1] < offsets[asked[0] + 1] - offsets[asked[0]];
openTree(...(known ? asked : [0]));
const time = timeline();
document.getElementById("app").append(...[header(), controls(), map(),
  el("main", {}, outline(), detail()), time, tip].filter(Boolean));
listen();
reline();
reveal(state.node);
document.documentElement.dataset.ready = "yes";
