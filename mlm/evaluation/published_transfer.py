"""Published win rates of reward transfer, to draw beside ours.

Best-of-64 on summaries by mT5-XL, PaLM-2-L as the judge, against the fine-tuned
model of the target; source: language of the reward's judgements.

Source: Wu et al. 2024, "Reuse Your Rewards" (arXiv 2404.12318v2), Table 6
(transfer) and Table 17 (the source's pairs translated into the target).
"""

_LANGUAGES = (
  "deu_Latn",
  "eng_Latn",
  "spa_Latn",
  "rus_Cyrl",
  "tur_Latn",
  "vie_Latn",
)


def _cells(rows: str) -> dict[tuple[str, str], float]:
  """{(source, target): win rate in percent} of rows of sources; . is none."""
  return {
    (source, target): float(cell)
    for source, row in zip(_LANGUAGES, rows.strip().splitlines(), strict=True)
    for target, cell in zip(_LANGUAGES, row.split(), strict=True)
    if cell != "."
  }


TABLE_6 = _cells("""
52.3 50.8 63.0 66.7 63.0 60.4
56.4 55.5 66.1 70.7 67.2 63.1
51.9 51.2 62.4 66.0 64.4 57.5
48.1 46.5 59.2 63.6 59.0 56.3
53.3 52.9 62.6 66.6 60.4 59.0
46.5 48.2 60.0 65.6 62.1 58.0
""")
TABLE_17 = _cells("""
.    50.0 61.9 66.1 66.1 54.6
47.9 .    63.3 64.9 64.5 53.1
50.6 52.9 .    64.1 64.5 59.0
47.4 51.2 60.3 .    63.3 57.7
50.6 52.5 61.8 65.6 .    50.8
42.0 50.8 59.1 64.4 63.6 .
""")
