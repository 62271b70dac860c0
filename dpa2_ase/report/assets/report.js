// Tables that are sorted by their headings and copied as CSV, and text with a button to copy it.
const copy = async (text) => {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.createElement("textarea"); // where the browser does not let pages use the clipboard
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
};

const copyButton = (label, text) => {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "tool copy";
  button.textContent = label;
  button.addEventListener("click", async () => {
    await copy(text());
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = label; }, 1500);
  });
  return button;
};

const valueOf = (cell) => cell.dataset.value ?? cell.textContent;
const quoted = (text) => (/[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
const csv = (table) =>
  [...table.rows].map((row) => [...row.cells].map((cell) => quoted(valueOf(cell))).join(",")).join("\n") + "\n";

const compare = (a, b) => {
  const [x, y] = [a, b].map((text) => (text === "" ? NaN : Number(text)));
  if (Number.isNaN(x) || Number.isNaN(y)) {
    const text = Number.isNaN(x) && Number.isNaN(y);
    return text ? a.localeCompare(b, undefined, { numeric: true }) : Number.isNaN(x) - Number.isNaN(y);
  }
  return x - y;
};

const sort = (table, heading) => {
  const descending = heading.getAttribute("aria-sort") === "ascending";
  const rows = [...table.tBodies[0].rows];
  const keys = new Map(rows.map((row) => [row, valueOf(row.cells[heading.cellIndex])]));
  rows.sort((a, b) => (descending ? compare(keys.get(b), keys.get(a)) : compare(keys.get(a), keys.get(b))));
  table.tBodies[0].append(...rows);
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
};

for (const box of document.querySelectorAll(".table")) {
  const table = box.querySelector("table");
  for (const heading of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => sort(table, heading));
  }
  if (table.tBodies[0].rows.length > 24) box.classList.add("scroll");
  box.after(copyButton("Copy CSV", () => csv(table)));
}
for (const box of document.querySelectorAll(".code")) {
  box.append(copyButton("Copy", () => box.querySelector("code").textContent));
}
