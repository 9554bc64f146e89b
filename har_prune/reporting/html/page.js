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
    const value = (row) => row.children[place].dataset.value;
    const text = (row) => row.children[place].textContent;
    const words = (a, b) => text(a).localeCompare(text(b), "en", { numeric: true });
    // What was not measured stands behind what was.
    const compare = (a, b) => (value(a) && value(b) ? value(a) - value(b) : (value(a) ? 0 : 1) - (value(b) ? 0 : 1) || words(a, b));
    heading.parentElement.querySelectorAll("[aria-sort]").forEach((each) => each.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    rows.append(...[...rows.rows].sort((a, b) => (down ? compare(b, a) : compare(a, b))));
  });
});
