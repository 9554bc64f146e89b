// Paper shows what is folded on a screen.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((each) => (each.open = true)));
// A heading of a column sorts its table: by number where there are numbers.
document.querySelectorAll("thead th").forEach((heading) => {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = heading.textContent;
  heading.replaceChildren(button);
  button.addEventListener("click", () => {
    const rows = heading.closest("table").tBodies[0];
    const place = [...heading.parentElement.children].indexOf(heading);
    const down = heading.getAttribute("aria-sort") === "ascending";
    const key = (row) => row.children[place].dataset.value ?? row.children[place].textContent;
    const order = (a, b) => key(a).localeCompare(key(b), "en", { numeric: true });
    const numbers = (a, b) => Number(key(a)) - Number(key(b)) || order(a, b);
    const compare = [...rows.rows].every((row) => key(row).trim() !== "" && !Number.isNaN(Number(key(row)))) ? numbers : order;
    heading.parentElement.querySelectorAll("[aria-sort]").forEach((each) => each.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    rows.append(...[...rows.rows].sort((a, b) => (down ? compare(b, a) : compare(a, b))));
  });
});
