for (const head of document.querySelectorAll("thead th")) {
  const [row, body] = [head.parentNode, head.closest("table").tBodies[0]];
  const column = [...row.children].indexOf(head);
  const text = (line) => line.cells[column].textContent.trim();
  const number = (line) => {
    const shown = text(line).replaceAll(",", "").replace(/^</, "");
    const time = /^\d+:\d\d:\d\d$/.test(shown);
    return time ? shown.split(":").reduce((sum, each) => 60 * sum + +each, 0) : parseFloat(shown);
  };
  const sort = () => {
    const sign = head.ariaSort === "ascending" ? -1 : 1;
    for (const each of row.children) each.removeAttribute("aria-sort");
    head.ariaSort = sign > 0 ? "ascending" : "descending";
    const lines = [...body.rows];
    const known = lines.filter((line) => !isNaN(number(line)));
    const others = lines.filter((line) => isNaN(number(line)));
    known.sort((one, other) => sign * (number(one) - number(other)));
    others.sort((one, other) => sign * text(one).localeCompare(text(other)));
    body.append(...known, ...others);
  };
  head.tabIndex = 0;
  head.onclick = sort;
  head.onkeydown = (event) => event.key === "Enter" && sort();
}
