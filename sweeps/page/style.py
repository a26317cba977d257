"""How the page looks: in light and in dark mode, on a screen, on a phone and on paper.

Figures take their colours from the same names (sweeps.page.inline), and are light on paper.
"""

from __future__ import annotations

from sweeps.page.roles import STYLES, SWEEPS

# The browser itself then refuses to load anything from a network.
SECURITY = (
    '<meta http-equiv="Content-Security-Policy" '
    "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
)

_LIGHT = """--page: #f6f7f9; --card: #ffffff; --text: #1b1f24; --faint: #58606b; --line: #d8dce2; --accent: #0072B2;
  --ink: #1b1f24; --soft: #4a525c; --grid: #dddddd;"""
_DARK = """--page: #14171b; --card: #1e2329; --text: #e6e9ed; --faint: #a2abb6; --line: #363d46; --accent: #56B4E9;
  --ink: #e6e9ed; --soft: #a2abb6; --grid: #363d46;"""
# A role has one colour everywhere. On dark cards two of them are too dark, and are the same hue, lighter.
_ROLES = " ".join(f"--{role}: {style.colour};" for role, style in STYLES.items())
_DOTS = "\n".join(f".dot.{role} {{ background: var(--{role}); }}" for role in STYLES)
_DOTS += "".join(f"\n.dot.sweep-{i} {{ background: {colour}; }}" for i, colour in enumerate(SWEEPS))

STYLE = f"""
:root {{ color-scheme: light dark; {_LIGHT} {_ROLES} }}
@media screen and (prefers-color-scheme: dark) {{
  :root {{ {_DARK} --baseline: #b4bac2; --finished: #3b98d8; }}
}}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--page); color: var(--text);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", sans-serif;
  -webkit-text-size-adjust: 100%; overflow-wrap: break-word; }}
main {{ max-width: 1120px; margin: 0 auto; padding: 24px 20px 64px; }}
h1 {{ font-size: 1.7rem; line-height: 1.25; margin: 0 0 16px; text-wrap: balance; }}
h2 {{ font-size: 1.25rem; margin: 44px 0 12px; }}
h3 {{ font-size: 1rem; margin: 24px 0 8px; }}
p {{ margin: 8px 0; max-width: 80ch; }}
a {{ color: var(--accent); }}
.kicker, .small, figcaption {{ color: var(--faint); font-size: .875rem; }}
.kicker {{ margin: 0 0 4px; }}
span.small {{ display: block; line-height: 1.35; }}
.answer {{ font-size: 1.2rem; line-height: 1.4; border-left: 4px solid var(--accent); padding: 6px 0 6px 14px;
  margin: 0 0 12px; }}
.state {{ font-weight: 600; }}
.tiles {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 12px; margin: 20px 0 0; }}
.tiles div {{ background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 14px; }}
.tiles dt {{ color: var(--faint); font-size: .875rem; }}
.tiles dd {{ margin: 0; font-size: 1.35rem; font-weight: 600; line-height: 1.3; }}
.tiles dd.small {{ font-size: .875rem; font-weight: 400; }}
figure.card {{ margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px; }}
figcaption {{ margin-top: 8px; }}
svg.figure {{ display: block; width: 100%; height: auto; fill: var(--ink); stroke-linejoin: round;
  stroke-linecap: butt; }}
.hint:hover {{ cursor: help; }}
.narrow {{ display: none; }}
section > figure.card + figure.card, figure.card + .scroll {{ margin-top: 16px; }}
figure img {{ display: block; width: 100%; height: auto; }}
img.grid {{ image-rendering: pixelated; }}
.panels {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 400px), 1fr)); gap: 16px; }}
.pair {{ display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 8px 16px; align-items: start; }}
.pair > div {{ display: grid; grid-row: span 3; grid-template-rows: subgrid; align-items: start; }}
.pair h3 {{ align-self: end; margin: 8px 0 0; }}
.pair dl.record, .pair figure {{ margin: 0; }}
.scroll {{ overflow-x: auto; }}
.named {{ position: relative; }}
h3.named {{ padding-left: 20px; }}
details.named summary span {{ color: var(--faint); font-size: .875rem; }}
details.named {{ border-bottom: 1px solid var(--line); padding: 6px 0; margin: 0; }}
details.named .dot {{ position: static; display: inline-block; margin: 0 8px 0 4px; }}
details.named figure {{ max-width: 560px; margin: 8px 0; }}
.prompts {{ display: grid; grid-template-columns: repeat(var(--columns), minmax(0, 1fr)); gap: 4px 8px;
  font-size: .8125rem; line-height: 1.25; color: var(--faint); }}
.prompts span {{ display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 3; overflow: hidden;
  overflow-wrap: anywhere; hyphens: auto; }}
section > .prompts {{ margin: 8px 0 16px; }}
.prompts.heads {{ grid-column: 2; gap: 0 2px; font-size: .6875rem; align-items: end; }}
.sheet {{ display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 8px; }}
.steps {{ grid-column: 1; display: flex; flex-direction: column; justify-content: space-around; text-align: right;
  font-size: .75rem; color: var(--faint); font-variant-numeric: tabular-nums; }}
table {{ border-collapse: collapse; }}
table.trials {{ width: 100%; background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  font-size: .9375rem; }}
.trials th, .trials td {{ text-align: left; vertical-align: top; padding: 8px;
  border-bottom: 1px solid var(--line); }}
.trials th {{ font-size: .8125rem; color: var(--faint); font-weight: 600; }}
ul.small li {{ margin: 2px 0; }}
.trials td {{ font-variant-numeric: tabular-nums; }}
.trials td:first-child div {{ position: relative; padding-left: 20px; min-width: 170px; }}
.trials .value {{ display: block; white-space: nowrap; }}
.trials .value .small {{ white-space: normal; }}
.trials td[data-name="difference"] .small {{ min-width: 12ch; }}
.trials td:last-child {{ min-width: 150px; overflow-wrap: anywhere; }}
.trials tr:last-child td {{ border-bottom: 0; }}
.dot {{ position: absolute; left: 0; top: .4em; width: 12px; height: 12px; border-radius: 50%;
  box-shadow: 0 0 0 1px var(--faint); }}
{_DOTS}
li {{ margin: 8px 0; overflow-wrap: anywhere; }}
dl.record {{ display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 4px 16px; font-size: .9375rem;
  margin: 12px 0;
  padding: 12px 14px; background: var(--card); border: 1px solid var(--line); border-radius: 10px; }}
.record dt {{ color: var(--faint); overflow-wrap: anywhere; }}
.record dd {{ margin: 0; overflow-wrap: anywhere; }}
details {{ margin: 10px 0; }}
summary {{ cursor: pointer; }}
pre {{ overflow-x: auto; font-size: .8125rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; padding: 12px; }}
@media screen and (max-width: 900px) {{
  main {{ padding: 16px 12px 48px; }}
  h1 {{ font-size: 1.35rem; }}
  .answer {{ font-size: 1.0625rem; }}
  .tiles {{ grid-template-columns: 1fr 1fr; gap: 8px; }}
  table.trials {{ border: 0; background: none; }}
  .trials, .trials tbody, .trials tr, .trials td {{ display: block; width: 100%; }}
  .trials thead {{ display: none; }}
  .trials tr {{ background: var(--card); border: 1px solid var(--line); border-radius: 10px; margin-bottom: 12px;
    padding: 6px 12px; }}
  .trials td {{ display: grid; grid-template-columns: 108px minmax(0, 1fr); gap: 8px; border: 0; padding: 4px 0; }}
  .trials td::before {{ content: attr(data-name); color: var(--faint); font-size: .8125rem; overflow-wrap: anywhere;
    }}
  .trials td:first-child {{ display: block; font-weight: 600; }}
  .trials td:first-child::before {{ content: none; }}
  .trials td:first-child span {{ font-weight: 400; }}
  .trials td:last-child {{ min-width: 0; }}
  .trials td.empty {{ display: none; }}
  dl.record {{ grid-template-columns: 1fr; gap: 0; }}
  .record dd {{ margin-bottom: 8px; }}
}}
@media screen and (max-width: 640px) {{
  .wide {{ display: none; }}
  .narrow {{ display: block; }}
  .pair {{ column-gap: 8px; }}
  .pair figure.card {{ padding: 4px; }}
  .pair .record dd {{ font-size: .8125rem; }}
  #samples .pair {{ grid-template-columns: minmax(0, 1fr); }}
  .prompts.heads span {{ display: block; writing-mode: vertical-rl; transform: rotate(180deg); justify-self: center;
    max-height: 16ch; white-space: nowrap; text-overflow: ellipsis; }}
}}
@page {{ size: A4; margin: 12mm; }}
@media print {{
  :root {{ --page: #ffffff; }}
  html {{ font-size: 11px; }}
  main {{ max-width: none; padding: 0; }}
  figure, tr, .tiles div {{ break-inside: avoid; }}
  h2, h3, summary {{ break-after: avoid; }}
  .pair > div {{ display: block; break-inside: avoid; }}
  .pair h3 {{ margin: 8px 0; }}
  .pair dl.record {{ margin-top: 8px; }}
  .scroll {{ overflow: visible; }}
  table.trials, dl.record {{ font-size: .875rem; }}
  .trials th, span.small {{ font-size: .9em; }}
  .trials td:first-child div {{ min-width: 110px; }}
  .trials td:last-child {{ min-width: 80px; }}
  .trials .value .small {{ min-width: 0; }}
  .trials th, .trials td {{ padding: 3px 5px; }}
  pre {{ white-space: pre-wrap; }}
}}
"""
