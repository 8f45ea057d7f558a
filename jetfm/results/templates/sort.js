// A click on a heading sorts its table by that column, a second one the other way round.
// Cells without a value come last either way.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  for (const button of table.querySelectorAll("th button")) {
    button.addEventListener("click", () => {
      const heading = button.closest("th");
      const down = heading.getAttribute("aria-sort") === "ascending";
      const numeric = heading.dataset.kind === "number";
      const keyed = [...body.rows].map((row) => {
        const key = row.cells[heading.cellIndex].dataset.key;
        return { row, key: numeric && key !== "" ? Number(key) : key };
      });
      keyed.sort((a, b) => {
        if (a.key === "" || b.key === "") return (a.key === "") - (b.key === "");
        const order = numeric ? a.key - b.key : a.key.localeCompare(b.key);
        return down ? -order : order;
      });
      for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      body.append(...keyed.map((one) => one.row));
    });
  }
}
