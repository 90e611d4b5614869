"""The results of an evaluation as text: a row a language, then by class."""

from mlm.languages import groups


def results_tables(results: dict) -> str:
  """Tables of the results.json that the job evaluate writes."""
  generation, win = results["generation"], results["win_rate"]
  lines = [
    "",
    *_bits_per_byte_rows(results["bits_per_byte"]),
    "",
    *_generation_rows(generation, win),
    *_class_rows(generation, win),
  ]
  return "\n".join(lines)


def _bits_per_byte_rows(by_language):
  yield f"{'language':<12}{'bits/byte':>10}{'unigram':>10}{'train tokens':>14}"
  for code, row in by_language.items():
    yield (
      f"{code:<12}{row['bits_per_byte']:>10.3f}{row['unigram_entropy']:>10.3f}"
      f"{row['train_tokens']:>14,}"
    )


def _generation_rows(generation, win):
  yield (
    f"{'language':<12}{'SFT reward':>16}{'RLOO reward':>16}{'KL':>8}"
    f"{'delta':>8}{'95 % interval':>18}"
  )
  sft, rloo = generation["sft"], generation["rloo"]
  yield _generation_row(
    "overall", sft["overall"], rloo["overall"], win["overall"]
  )
  for code, row in sft["by_language"].items():
    yield _generation_row(
      code, row, rloo["by_language"][code], win["by_language"].get(code)
    )


def _generation_row(name, sft, rloo, win):
  mean, aligned_mean = (
    f"{row['reward']:.3f} ± {row['reward_standard_error'] or float('nan'):.3f}"
    for row in (sft, rloo)
  )
  delta = f"{win['delta']:.1f}" if win else ""
  interval = "not judged"
  if win:
    interval = (
      "one source"
      if win["low"] is None
      else f"[{win['low']:.1f}, {win['high']:.1f}]"
    )
  return (
    f"{name:<12}{mean:>16}{aligned_mean:>16}{rloo['kl']:>8.2f}{delta:>8}"
    f"{interval:>18}"
  )


def _class_rows(generation, win):
  """Macro averages over the languages of each Joshi class."""
  columns = [
    {code: row[name] for code, row in by_language.items()}
    for by_language, name in (
      (generation["sft"]["by_language"], "reward"),
      (generation["rloo"]["by_language"], "reward"),
      (generation["rloo"]["by_language"], "kl"),
      (win["by_language"], "delta"),
    )
  ]
  for name, codes in groups.members(columns[0], "joshi_class").items():
    sft, rloo, kl, delta = (
      groups.macro_average(values, codes) for values in columns
    )
    told = f"{delta:>8.1f}" if delta is not None else f"{'not judged':>26}"
    yield (
      f"{f'class {name} ({len(codes)})':<12}{sft:>16.3f}{rloo:>16.3f}"
      f"{kl:>8.2f}{told}"
    )
