"use strict";
// Slices of cases: a slider, or its arrow keys, shows another one in all rows of a case; check boxes hide what is drawn.
const LEAST_PX = 11;  // the height of an organ's number on the screen, however small the picture is
const hidden = { label: false, prediction: false, numbers: false };
const viewers = [...document.querySelectorAll(".viewer")].map((root) => new Viewer(root));

function Viewer(root) {
  const source = root.querySelector('script[type="application/json"]');
  const data = source ? JSON.parse(source.textContent) : null;
  const without = new Set();
  const at = {};
  const loaded = {};

  function load(address) {
    loaded[address] ??= new Promise((done, failed) => {
      const picture = new Image();
      picture.onload = () => done(picture);
      picture.onerror = failed;
      picture.src = address;
    });
    return loaded[address];
  }

  // The label values of one slice: the grey levels of its part of the picture.
  function values(picture, view, slice) {
    const canvas = new OffscreenCanvas(view.width, view.height);
    const pen = canvas.getContext("2d", { willReadFrequently: true });
    pen.drawImage(picture, 0, -slice * view.height);
    const rgba = pen.getImageData(0, 0, view.width, view.height).data;
    return Uint8Array.from({ length: view.width * view.height }, (_, i) => rgba[4 * i]);
  }

  async function draw(number) {
    const view = data.views[number];
    const slice = at[number];
    const maps = await Promise.all([view.grey, view.label, ...view.predictions].map(load));
    if (slice !== at[number]) return;  // the slider has moved on
    const label = values(maps[1], view, slice);
    root.querySelectorAll(`.pane[data-view="${number}"]`).forEach((pane, row) => {
      let canvas = pane.querySelector("canvas");
      if (!canvas) {
        canvas = document.createElement("canvas");
        canvas.className = "plane";
        canvas.setAttribute("role", "img");
        pane.querySelector("svg").replaceWith(canvas);
      }
      const zoom = 3;
      canvas.width = zoom * view.width;
      canvas.height = zoom * view.height;
      canvas.setAttribute("aria-label", view.where[slice]);
      canvas.dataset.slice = slice;
      const pen = canvas.getContext("2d");
      pen.drawImage(maps[0], 0, slice * view.height, view.width, view.height, 0, 0, canvas.width, canvas.height);
      const size = numberSize(view.width, view.height, canvas);
      paint(pen, zoom, view, label, values(maps[2 + row], view, slice), size);
      pane.querySelector(".where").textContent = view.where[slice];
    });
  }

  function paint(pen, zoom, view, label, prediction, size) {
    const { width, height } = view;
    for (const value of new Set([...label, ...prediction])) {
      if (!value || without.has(value)) continue;
      const [colour, dash] = data.organs[value];
      pen.fillStyle = pen.strokeStyle = colour;
      const fill = new Path2D();
      const line = new Path2D();
      let pixels = 0, x = 0, y = 0, right = 0, top = height;
      const counts = label.includes(value) ? label : prediction;
      for (let i = 0; i < label.length; i++) {
        const column = i % width, row = (i - column) / width;
        if (label[i] === value) fill.rect(column * zoom, row * zoom, zoom, zoom);
        if (counts[i] === value) {
          pixels++; x += column; y += row;
          right = Math.max(right, column); top = Math.min(top, row);
        }
        // Its borders to the left and above, of either side.
        const mine = prediction[i] === value;
        if (column > 0 && mine !== (prediction[i - 1] === value)) edge(line, column, row, 0, 1, zoom);
        if (row > 0 && mine !== (prediction[i - width] === value)) edge(line, column, row, 1, 0, zoom);
      }
      if (!hidden.label) { pen.globalAlpha = 0.4; pen.fill(fill); pen.globalAlpha = 1; }
      if (!hidden.prediction) {
        pen.lineWidth = 0.55 * zoom;
        pen.setLineDash(dash ? dash.split(" ").map((part) => part * zoom / 2) : []);
        pen.stroke(line);
      }
      if (!hidden.numbers && pixels) {
        const small = pixels < (2.5 * size) ** 2;
        pen.setLineDash([]);
        pen.font = `600 ${size * zoom}px sans-serif`;
        pen.textAlign = "center"; pen.textBaseline = "middle";
        pen.lineWidth = 0.15 * size * zoom; pen.strokeStyle = "#000"; pen.fillStyle = "#fff";
        const where = [(small ? right + 0.7 * size : x / pixels) * zoom, (small ? top : y / pixels) * zoom];
        pen.strokeText(value, ...where);
        pen.fillText(value, ...where);
      }
    }
  }

  for (const slider of root.querySelectorAll('input[type="range"]')) {
    slider.disabled = false;
    slider.addEventListener("input", () => {
      const number = Number(slider.dataset.view);
      at[number] = Number(slider.value);
      slider.setAttribute("aria-valuetext", data.views[number].where[at[number]]);
      draw(number);
    });
  }
  for (const box of root.querySelectorAll("input[data-organ]")) {
    box.disabled = false;
    box.addEventListener("change", () => {
      const value = Number(box.dataset.organ);
      if (box.checked) without.delete(value); else without.add(value);
      for (const part of root.querySelectorAll(`.plane [data-organ="${value}"]`)) {
        part.style.display = box.checked ? "" : "none";
      }
      this.redraw();
    });
  }
  this.redraw = () => Object.keys(at).forEach((number) => draw(Number(number)));
  new ResizeObserver(() => {
    for (const plane of root.querySelectorAll("svg.plane")) {
      const { width, height } = plane.viewBox.baseVal;
      plane.querySelector(".organ-numbers").setAttribute("font-size", numberSize(width, height, plane));
    }
    this.redraw();
  }).observe(root);
}

// An organ's number is 4 % of its picture high, but never too small to be read; in the picture's pixels.
function numberSize(width, height, shown) {
  const across = shown.getBoundingClientRect().width;
  return across ? Math.max(0.04 * height, LEAST_PX * width / across) : 0.04 * height;
}

function edge(path, column, row, right, down, zoom) {
  path.moveTo(column * zoom, row * zoom);
  path.lineTo((column + right) * zoom, (row + down) * zoom);
}

for (const box of document.querySelectorAll("input[data-toggles]")) {
  box.disabled = false;
  box.addEventListener("change", () => {
    hidden[box.dataset.toggles] = !box.checked;
    document.body.classList.toggle(`without-${box.dataset.toggles}`, !box.checked);
    for (const viewer of viewers) viewer.redraw();
  });
}
