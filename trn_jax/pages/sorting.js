"use strict";
// Headings of tables become buttons that sort; numbers begin with the largest, texts with the first.
for (const table of document.querySelectorAll("table[data-sortable]")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const isNumber = head.classList.contains("number");
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      const descends = before ? before === "ascending" : isNumber;
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", descends ? "descending" : "ascending");
      const keyed = [...body.rows].map((row) => [keyOf(row.cells[column], isNumber), row]);
      keyed.sort(([a], [b]) => {
        if (a === null || b === null) return (a === null) - (b === null);
        const order = isNumber ? a - b : a.localeCompare(b);
        return descends ? -order : order;
      });
      body.append(...keyed.map(([, row]) => row));
    });
  });
}
function keyOf(cell, isNumber) {
  const value = cell.dataset.value;
  if (!isNumber) return value ?? cell.textContent;
  return value === undefined || value === "" ? null : Number(value);
}
