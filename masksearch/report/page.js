"use strict";
// Tables: a click on a head sorts by its column, a second one the other way round.
const number = (text) => {
  const value = parseFloat(text.replace(/,/g, ""));
  return Number.isNaN(value) ? null : value;
};
for (const table of document.querySelectorAll("table.sorts")) {
  const body = table.tBodies[0];
  table.tHead.querySelectorAll("button").forEach((button, place) => {
    button.addEventListener("click", () => {
      const head = button.parentElement;
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.querySelectorAll("th")) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].map((row) => {
        const text = row.cells[place].textContent;
        row.classList.remove("first");
        return { row, text, value: number(text) };
      });
      const words = rows.some((one) => one.value === null && /[a-z]/i.test(one.text));
      rows.sort((one, other) => {
        if (words) return (down ? -1 : 1) * one.text.localeCompare(other.text);
        if (one.value === null || other.value === null) return (one.value === null) - (other.value === null);
        return (down ? -1 : 1) * (one.value - other.value);
      });
      body.append(...rows.map((one) => one.row));
    });
  });
}
// Figures: what a point says, at once, and also where nothing can hover.
const note = document.createElement("div");
note.className = "note";
note.hidden = true;
document.body.append(note);
const known = new WeakMap();
const cell = (area, event) => {
  if (!known.has(area)) known.set(area, JSON.parse(area.dataset.cells));
  const { rows, columns, values, unit } = known.get(area);
  const { left, top, width, height } = area.getBoundingClientRect();
  const place = (share, count) => Math.max(0, Math.min(count - 1, Math.floor(share * count)));
  const row = place((event.clientY - top) / height, rows.length);
  const column = place((event.clientX - left) / width, columns.length);
  return `${rows[row]} ${columns[column]}: ${values[row][column]}${unit}`;
};
const tell = (event) => {
  const area = event.target.closest && event.target.closest("figure [data-cells]");
  const point = event.target.closest ? event.target.closest("figure use") : null;
  const title = point && point.querySelector("title");
  const text = title ? title.textContent : area ? cell(area, event) : point && point.dataset.text;
  note.hidden = !text;
  if (!text) return;
  if (title) {
    point.dataset.text = text;
    title.remove(); // or the browser's own appears beside it
  }
  note.textContent = text;
  const room = document.documentElement.clientWidth - note.offsetWidth - 8;
  note.style.left = `${Math.max(8, Math.min(event.clientX + 12, room))}px`;
  note.style.top = `${Math.max(8, event.clientY - note.offsetHeight - 12)}px`;
};
document.addEventListener("pointerover", tell);
document.addEventListener("pointermove", tell);
document.addEventListener("pointerdown", tell);
