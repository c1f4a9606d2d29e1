"""The look of a report: system fonts, nothing fetched."""

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.55 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; color: #1d1d1f; background: #fff;
       max-width: 72rem; margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 1rem; }
h2 { font-size: 1.35rem; line-height: 1.3; margin: 3rem 0 .8rem; padding-top: 1.2rem; border-top: 3px solid #d9d4c8; }
h3 { font-size: 1.08rem; margin: 1.9rem 0 .4rem; }
a { color: #1a5799; }
.verdict { background: #f5f2ea; border-left: 4px solid #c74f0d; padding: .7rem 1rem; margin: 0 0 1rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(12rem, 1fr)); gap: .8rem; }
.cards div { border: 1px solid #dcd8cf; border-radius: 6px; padding: .6rem .9rem;
              display: flex; flex-direction: column; }
.cards b { font-size: 1.55rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.cards span { color: #5b5b60; font-size: .88rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .4rem 0; font-size: .92rem; min-width: 60%; }
th, td { text-align: left; padding: .32rem 1.1rem .32rem .3rem; border-bottom: 1px solid #e3e0d8; vertical-align: top; }
th { font-weight: 600; white-space: nowrap; }
td { overflow-wrap: break-word; } td:first-child { white-space: nowrap; }
.contents td:first-child { white-space: normal; }
.contents table { width: 100%; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
tr.won, td.won { background: #e8f3e2; } tr.line { font-weight: 600; }
details { margin-top: .6rem; } summary { cursor: pointer; color: #1a5799; }
.gallery { display: flex; flex-wrap: wrap; gap: .75rem; align-items: flex-start; margin: .6rem 0; }
figure { margin: 0; } figcaption { font-size: .84rem; line-height: 1.35; margin-top: .25rem; }
.gallery img { display: block; border: 1px solid #8d8d8d; } .crisp { image-rendering: pixelated; }
.wide { width: 100%; max-width: 60rem; }
.quiet { color: #5b5b60; font-size: .88rem; }
"""
