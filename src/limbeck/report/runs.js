// The table of runs: a click on a column's heading sorts by it, another turns the order round.
"use strict";
(() => {
  const table = document.getElementById("sortable");
  const body = table.tBodies[0];
  const headings = [...table.tHead.rows[0].cells].slice(0, -1);

  // Numbers are compared as numbers; what was not measured comes last, whichever the order.
  function compare(a, b, sign) {
    if (a === "" || b === "") return (a === "") - (b === "");
    const difference = Number(a) - Number(b);
    return sign * (Number.isNaN(difference) ? a.localeCompare(b) : difference);
  }

  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    heading.replaceChildren(button);
    button.addEventListener("click", () => {
      const sign = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      for (const other of headings) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
      const keyOf = (row) => row.cells[column].dataset.key;
      body.append(...[...body.rows].sort((a, b) => compare(keyOf(a), keyOf(b), sign)));
    });
  });
})();
