"use strict";
// Tables sort on a click on a header, or on Enter or Space when it has the focus; cells without a value stay last.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  heads.forEach((head, index) => {
    const button = head.querySelector("button");
    button.disabled = false;
    button.addEventListener("click", () => {
      const numeric = head.classList.contains("number");
      const before = head.getAttribute("aria-sort");
      const ascending = before === null || before === "none" ? !numeric : before === "descending";
      const sign = ascending ? 1 : -1;
      const keyed = [...body.rows].map((row) => {
        const cell = row.cells[index];
        const text = cell.textContent.trim();
        const value = numeric ? (cell.dataset.value ? Number(cell.dataset.value) : null) : text === "-" ? null : text;
        return { row, value };
      });
      keyed.sort((a, b) => {
        if (a.value === null || b.value === null) return (a.value === null) - (b.value === null);
        if (numeric) return sign * (a.value - b.value);
        return sign * a.value.localeCompare(b.value, "en", { numeric: true });
      });
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      body.append(...keyed.map((item) => item.row));
    });
  });
}
// What is wider than its place says that it scrolls.
function cue() {
  for (const part of document.querySelectorAll(".scroll")) {
    part.nextElementSibling.hidden = part.scrollWidth <= part.clientWidth + 1;
  }
}
new ResizeObserver(cue).observe(document.body);
document.addEventListener("toggle", cue, true);
cue();
// In print everything is expanded.
let closed = [];
window.addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll("details:not([open])")];
  for (const part of closed) part.open = true;
});
window.addEventListener("afterprint", () => {
  for (const part of closed) part.open = false;
});
