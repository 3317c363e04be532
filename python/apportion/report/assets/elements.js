// Elements, numbers and colours of every page that the package makes. Text reaches a page
// as text nodes alone: nothing in these files builds markup from a string.

const data = JSON.parse(document.getElementById("data").textContent);
const narrow = matchMedia("(max-width: 700px)");

// An element: `properties` set on it, `children` (elements, strings, null) inside it.
function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("aria-") || name.startsWith("data-")) node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}

function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const grouped = new Intl.NumberFormat("en");
const count = (n) => grouped.format(n);
const plural = (n, noun) => `${count(n)} ${noun}${n === 1 ? "" : "s"}`;

// A number in few characters; a minus sign as wide as the plus.
function short(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  let text = size !== 0 && (size < 0.001 || size >= 1e5) ? value.toExponential(1) : value.toFixed(
    size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3);
  if (/^-?\d+\.\d+$/.test(text)) text = text.replace(/\.?0+$/, "");
  return text.replace("-", "−");
}

const signed = (value) => (value > 0 ? `+${short(value)}` : short(value));
// All embedded digits, for the panel of numbers.
const exact = (value) => (value === null || value === undefined ? "absent" : String(value).replace("-", "−"));

// Sign and strength (0 to 1) of a number, as attributes that the style sheet colours.
function paint(node, value, scale) {
  const known = value !== null && value !== undefined && value !== 0;
  node.dataset.sign = !known ? "none" : value > 0 ? "pos" : "neg";
  // Less than linear, so that small numbers are still told from none.
  const strength = known ? Math.max(0.12, Math.min(1, Math.abs(value) / scale) ** 0.7) : 0;
  node.style.setProperty("--strength", strength.toFixed(3));
  return node;
}
