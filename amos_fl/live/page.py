"""The page of a view: one file of HTML that asks for the view and draws it, with nothing from a network."""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>amos-fl</title>
<style nonce="NONCE">
:root { color-scheme: light dark; --text: #1b1f24; --soft: #57606a; --line: #d0d7de; --back: #ffffff; --bar: #0b6e99;
  --alarm: #b3261e; --face: #f6f8fa; }
@media (prefers-color-scheme: dark) { :root { --text: #e6edf3; --soft: #a3adb8; --line: #3d444d; --back: #0d1117;
  --bar: #58b4d9; --alarm: #ff8a80; --face: #161b22; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 75rem; padding: 1rem; font: 16px/1.5 system-ui, sans-serif; color: var(--text);
  background: var(--back); overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; margin: 0; }
h2 { font-size: 1.05rem; margin: 1.5rem 0 .4rem; }
#state { font-size: 1.1rem; margin: .2rem 0; }
.soft, figcaption { color: var(--soft); }
.alarm { color: var(--alarm); font-weight: 600; }
.bars { display: grid; grid-template-columns: minmax(6rem, auto) minmax(4rem, 1fr) auto; gap: .3rem .8rem;
  align-items: center; }
progress { width: 100%; height: .9rem; accent-color: var(--bar); }
.scroll { overflow-x: auto; }
.cue { font-size: .85rem; margin: .3rem 0 1rem; }
.cue::before { content: "⇄ "; }
@media (max-width: 40rem) {
  th:first-child, td:first-child { position: sticky; left: 0; background: var(--back); }
}
table { border-collapse: collapse; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child { text-align: left; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1rem; }
figure { margin: 0; max-width: 40rem; background: var(--face); padding: .6rem; border-radius: .4rem; }
svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--soft); font-size: 11px; }
@media (max-width: 40rem) { svg text { font-size: 17px; } }
.key { display: inline-flex; align-items: center; gap: .35rem; margin-right: .9rem; }
.key svg { width: 1.6rem; }
ol.log { list-style: none; margin: 0; padding: .6rem; background: var(--face); border-radius: .4rem;
  font: .85rem/1.5 ui-monospace, monospace; }
</style>
</head>
<body>
<main>
<h1 id="title">amos-fl</h1>
<p id="state" role="status" aria-live="polite">asking ...</p>
<div id="notes"></div>
<div id="alarms" role="alert"></div>
<div id="bars" class="bars"></div>
<div id="tables"></div>
<div id="charts" class="charts"></div>
<div id="lines"></div>
<p class="soft" id="asked"></p>
</main>
<script nonce="NONCE">
"use strict";
const EVERY = EVERY_MS, SVG = "http://www.w3.org/2000/svg";
// Okabe and Ito's colours, which colour-blind readers tell apart, with a dash of its own for each line.
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#808080"];
const DASHES = ["", "6 3", "2 3", "8 3 2 3", "", "6 3", "2 3"];
const at = id => document.getElementById(id);
function made(name, text, attributes) {
  const element = document.createElement(name);
  if (text !== undefined) element.textContent = text;
  for (const [key, value] of Object.entries(attributes || {})) element.setAttribute(key, value);
  return element;
}
function drawn(name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}
function put(place, elements) { at(place).replaceChildren(...elements); }
function table(about) {
  const part = made("section"), shown = made("table"), head = made("tr");
  part.append(made("h2", about.title));
  for (const name of about.head) head.append(made("th", name, {scope: "col"}));
  shown.append(made("thead"), made("tbody"));
  shown.tHead.append(head);
  for (const row of about.rows) {
    const line = made("tr");
    for (const cell of row) line.append(made("td", cell));
    shown.tBodies[0].append(line);
  }
  const scroll = made("div", undefined, {class: "scroll", tabindex: "0", role: "region", "aria-label": about.title});
  scroll.append(shown);
  part.append(scroll, made("p", "Wider than the screen: scroll it sideways.", {class: "cue soft", hidden: ""}));
  return part;
}
// What is wider than its place says that it scrolls.
function cue() {
  for (const part of document.querySelectorAll(".scroll"))
    part.nextElementSibling.hidden = part.scrollWidth <= part.clientWidth + 1;
}
new ResizeObserver(cue).observe(document.body);
let tables = "";
const scrolled = new Map();  // where each table stood, by its name, also while it was away
function putTables(all) {
  const told = JSON.stringify(all);
  if (told === tables) return;
  tables = told;
  const places = () => [...document.querySelectorAll(".scroll")], name = part => part.getAttribute("aria-label");
  for (const part of places()) scrolled.set(name(part), part.scrollLeft);
  put("tables", all.map(table));
  for (const part of places()) part.scrollLeft = scrolled.get(name(part)) || 0;
  cue();
}
function dashed(line, index) {
  const dash = DASHES[index % DASHES.length];
  if (dash) line.setAttribute("stroke-dasharray", dash);
  return line;
}
function chart(about) {
  const names = Object.keys(about.lines), all = names.flatMap(name => about.lines[name]);
  const figure = made("figure");
  figure.append(made("figcaption", about.title));
  if (!all.length) return figure;
  const [w, h, left, bottom, top] = [480, 220, 60, 24, 10];
  const xs = all.map(p => p[0]), ys = all.map(p => p[1]);
  const last = Math.max(...xs), first = Math.min(...xs);
  const x0 = first < last ? first : 0, x1 = Math.max(x0 + 1, last);  // one point: from the beginning of the run
  let [y0, y1] = [Math.min(0, ...ys), Math.max(...ys)];
  if (y1 <= y0) y1 = y0 + 1;
  const x = v => left + (v - x0) / (x1 - x0) * (w - left - 10);
  const y = v => h - bottom - (v - y0) / (y1 - y0) * (h - bottom - top);
  const svg = drawn("svg", {viewBox: `0 0 ${w} ${h}`, role: "img", "aria-label": about.title + ", " + names.map(
    name => name + " " + about.lines[name].at(-1)[1].toPrecision(3)).join(", ")});
  for (const share of [0, .5, 1]) {
    const value = y0 + share * (y1 - y0);
    svg.append(drawn("line", {x1: left, x2: w - 10, y1: y(value), y2: y(value), stroke: "var(--line)"}));
    svg.append(drawn("text", {x: left - 5, y: y(value) + 4, "text-anchor": "end"}, value.toPrecision(3)));
  }
  for (const value of new Set([x0, Math.round((x0 + x1) / 2), Math.round(x1)]))
    svg.append(drawn("text", {x: x(value), y: h - 6, "text-anchor": "middle"}, String(value)));
  names.forEach((name, i) => {
    const points = about.lines[name], colour = COLOURS[i % COLOURS.length];
    svg.append(dashed(drawn("polyline", {points: points.map(p => `${x(p[0])},${y(p[1])}`).join(" "), fill: "none",
      stroke: colour, "stroke-width": 2}), i));
    const last = points.at(-1);
    svg.append(drawn("circle", {cx: x(last[0]), cy: y(last[1]), r: 3, fill: colour}));
  });
  figure.append(svg);
  const keys = made("div");
  names.forEach((name, i) => {
    const key = made("span", undefined, {class: "key"});
    const mark = drawn("svg", {viewBox: "0 0 26 6", "aria-hidden": "true"});
    mark.append(dashed(drawn("line", {x1: 0, x2: 26, y1: 3, y2: 3, stroke: COLOURS[i % COLOURS.length],
      "stroke-width": 2}), i));
    key.append(mark, made("span", `${name} ${about.lines[name].at(-1)[1].toPrecision(3)}`));
    keys.append(key);
  });
  figure.append(keys);
  return figure;
}
function show(view) {
  document.title = `${view.state} - ${view.title}`;
  at("title").textContent = view.title;
  if (at("state").textContent !== view.state) at("state").textContent = view.state;
  put("notes", view.notes.map(note => made("p", note, {class: "soft"})));
  put("alarms", view.alarms.map(alarm => made("p", alarm, {class: "alarm"})));
  put("bars", view.bars.flatMap(bar => {
    const share = made("progress", undefined, {max: Math.max(bar.total, 1), value: bar.done, "aria-label": bar.label});
    return [made("span", bar.label), share, made("span", `${bar.done}/${bar.total} ${bar.text}`)];
  }));
  putTables(view.tables);
  put("charts", view.charts.filter(about => Object.keys(about.lines).length).map(chart));
  const log = made("ol", undefined, {class: "log"});
  view.lines.forEach(line => log.append(made("li", line)));
  put("lines", view.lines.length ? [made("h2", "What happened last"), log] : []);
}
async function ask() {
  let over = false;
  try {
    const answer = await fetch("/view.json", {cache: "no-store"});
    if (answer.ok) {
      const view = await answer.json();
      show(view);
      over = view.over;
    }
    at("asked").textContent = answer.ok ? `as of ${new Date().toLocaleTimeString()}` : await answer.text();
  } catch (error) {
    at("asked").textContent = "amos-fl watch does not answer any more; what is above is what it said last";
  }
  if (!over) setTimeout(ask, EVERY);
}
ask();
</script>
</body>
</html>
"""


def page(nonce: str, every_s: float) -> str:
    """The page, whose script and style have this nonce, and which asks for the view every so many seconds."""
    return _PAGE.replace("NONCE", nonce).replace("EVERY_MS", str(max(200, round(1000 * every_s))))
