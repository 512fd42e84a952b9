"""Colors of the report, and the style sheet and script of its page."""

INK, MUTED, GRID = "#1b1f27", "#6b7280", "#e3e6eb"
# The colors of Okabe and Ito, told apart by color-blind readers, and two more.
OTHERS = ("#0072B2", "#009E73", "#56B4E9", "#E69F00", "#882255", "#999933")
METHODS = {"HarmonyDream": "#D55E00", "DreamerV3": "#AA4499"}
"""Colors of the published methods; `OTHERS` are of all others, in their order."""
LOSSES = ("#D55E00", "#0072B2", "#009E73")
"""Colors of the losses that harmony weighs, in figures that show nothing of other methods."""
LIGHT = {"--ink": INK, "--muted": MUTED, "--line": GRID,
         **{f"--c{i}": color for i, color in enumerate((*OTHERS, *METHODS.values()))}}
CSS = {color: name for name, color in LIGHT.items()}
"""CSS variable of every color."""
BRIGHT = ("#4a9be8", "#2fc79a", "#9bd8f5", "#f0b429", "#d3719b", "#c5c55a", "#f58548", "#d987cd")
DARK = {"--ink": "#e6e8ec", "--muted": "#98a1b0", "--line": "#2b313c",
        **{f"--c{i}": color for i, color in enumerate(BRIGHT)}}
SANS = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", "DejaVu Sans", sans-serif'


def variables(values: dict[str, str]) -> str:
    """CSS declarations of variables."""
    return " ".join(f"{name}: {value};" for name, value in values.items())


STYLE = ":root { color-scheme: light dark; --sans: " + SANS + "; " + variables(LIGHT) + """
  --bg: #f6f7f9; --card: #fff; --accent: #0b63b5; --warn: #9a5b00; --warnbg: #fff7e6 }
@media (prefers-color-scheme: dark) { :root { """ + variables(DARK) + """
  --bg: #11141a; --card: #191d25; --accent: #6cb4ff; --warn: #f0b65c; --warnbg: #2a2315 } }
* { box-sizing: border-box }
body { margin: 0; background: var(--bg); color: var(--ink); font: 15px/1.55 var(--sans) }
main { max-width: 1240px; margin: 0 auto; padding: 28px 20px 64px }
h1 { font-size: 27px; line-height: 1.2; margin: 0 0 4px; letter-spacing: -.01em }
h2 { font-size: 19px; margin: 40px 0 10px; letter-spacing: -.005em }
h3 { font-size: 15px; margin: 0 0 4px }
p { margin: 4px 0 12px; max-width: 78ch }
a, summary { color: var(--accent) }
code { font-size: .92em }
.muted, figcaption { color: var(--muted) }
figcaption { font-size: 13px; margin-bottom: 10px }
.card, figure { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 16px 18px;
  margin: 0 0 16px; min-width: 0 }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 18px 0 }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 16px }
.tile b { display: block; font-size: 25px; font-weight: 650; line-height: 1.3; font-variant-numeric: tabular-nums }
.tile small { display: block; color: var(--muted); font-size: 12.5px; line-height: 1.45 }
.panels { display: grid; gap: 8px 14px;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, var(--panel)), 1fr)) }
.panels svg { width: 100%; max-width: var(--most); height: auto; display: block; margin: 0 auto }
.pair { display: grid; gap: 16px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr));
  margin-bottom: 16px }
.pair > div { display: grid; gap: 16px; align-content: start; min-width: 0 }
.pair > div:empty { display: none }
.pair figure { margin: 0 }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: 13px; margin: 2px 0 10px }
.legend i, td i { display: inline-block; width: 16px; height: 4px; border-radius: 2px; margin-right: 7px;
  vertical-align: middle }
.scroll { overflow-x: auto; margin: 0 -18px; padding: 0 18px }
table { border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; width: 100% }
th, td { padding: 5px 10px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line) }
th { white-space: normal; font-weight: 600; color: var(--muted); font-size: 12.5px; vertical-align: bottom }
td:first-child, th:first-child { position: sticky; left: 0; background: var(--card); z-index: 1 }
th:first-child, td:first-child { text-align: left }
td:first-child { white-space: normal; min-width: 20ch }
tbody tr:hover td { background: color-mix(in srgb, var(--accent) 7%, var(--card)) }
th button { all: unset; cursor: pointer }
th button:focus-visible { outline: 2px solid var(--accent); border-radius: 3px }
th[aria-sort] button::after { content: " \\2191" }
th[aria-sort=descending] button::after { content: " \\2193" }
td code { display: block; max-width: 36ch; white-space: normal; overflow-wrap: anywhere; text-align: left }
.missing { background: var(--warnbg); border-color: color-mix(in srgb, var(--warn) 40%, transparent) }
.missing h2 { margin: 0 0 6px; color: var(--warn); font-size: 16px }
.missing ul { margin: 0; padding-left: 20px }
li { overflow-wrap: anywhere }
summary { cursor: pointer }
@media (max-width: 560px) {
  main { padding: 20px 12px 40px }
  .card, figure { padding: 12px }
  h1 { font-size: 23px }
  .scroll { margin: 0 -12px; padding: 0 12px }
  th, td { padding: 5px 7px }
  td:first-child { min-width: 16ch }
}
@media print { body { background: none } .card, figure { break-inside: avoid } }
"""

SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const first = column ? "descending" : "ascending", other = column ? "ascending" : "descending";
    const order = head.getAttribute("aria-sort") === first ? other : first, sign = order === "ascending" ? 1 : -1;
    heads.forEach(h => h.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", order);
    const text = row => row.cells[column].innerText, number = text => parseFloat(text.replaceAll(",", ""));
    const compare = (a, b) => (a === "") - (b === "")
      || sign * (isNaN(number(a)) || isNaN(number(b)) ? a.localeCompare(b) : number(a) - number(b));
    body.append(...[...body.rows].sort((a, b) => compare(text(a), text(b))));
  }));
}
"""
