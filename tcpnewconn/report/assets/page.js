"use strict";
// Sorting and searching of the page's tables. Without it every table is there, whole and in order.
for (const table of document.querySelectorAll("table.data")) {
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const heads = Array.from(table.tHead.rows[0].cells);
  const value = (row, at) => {
    const cell = row.cells[at];
    return cell.dataset.v === undefined ? cell.textContent : Number(cell.dataset.v);
  };
  heads.forEach((head, at) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.classList.remove("plain");
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const number = rows.length > 0 && typeof value(rows[0], at) === "number";
      const now = head.getAttribute("aria-sort");
      const up = now === null ? !number : now === "descending";
      heads.forEach((one) => one.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      rows.sort((a, b) => {
        const one = value(a, at), two = value(b, at);
        const order = number ? one - two : one.localeCompare(two, "en", { numeric: true });
        return up ? order : -order;
      });
      body.append(...rows);
    });
  });
  const find = table.closest("section").querySelector(".find");
  if (find && rows.length > 1) {
    find.hidden = false;
    const input = find.querySelector("input");
    const status = find.querySelector("[role=status]");
    const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
    input.addEventListener("input", () => {
      const wanted = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        const hit = wanted.every((word) => texts.get(row).includes(word));
        row.hidden = !hit;
        shown += hit;
      }
      status.textContent = wanted.length ? `${shown} of ${rows.length} rows` : "";
    });
  }
}
