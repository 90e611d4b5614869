"""Limits of the quality measures, derived from a language's own text.

FineWeb2's thresholds are English's, carried over to each language through the
distribution of the measure in that language. Four rules are compared in the
paper (Penedo et al. 2025, section 4; which rule won for which filter is
unconfirmed here):

- quantile: the value that cuts as much of the language's text as English's
  limit cuts of English text;
- mean_std: as many standard deviations from the language's mean as English's
  limit is from the English mean;
- median_ratio: English's limit times the ratio of the medians;
- ten_tail: cuts a tenth of the language's text; needs no English.
"""

import math

from beam_pipelines.filters import distribution

RULES = ("mean_std", "median_ratio", "quantile", "ten_tail")


def derive(
  rule: str,
  side: str,
  english_limit: float,
  english: distribution.Distribution,
  language: distribution.Distribution,
) -> float:
  """The limit of one measure in one language.

  Args:
    rule: one of RULES.
    side: "min" or "max".
    english_limit: the limit in English.
    english: the measure on English pages.
    language: the measure on the language's pages.

  Raises:
    ValueError: if the rule is unknown, or English text is no yardstick: its
      standard deviation or median is 0.
  """
  if rule == "ten_tail":
    return language.quantile(0.1 if side == "min" else 0.9)
  if rule == "quantile":
    if side == "min":
      return language.quantile(english.share_below(english_limit))
    return language.quantile(
      english.share_below(math.nextafter(english_limit, math.inf))
    )
  if rule == "mean_std":
    if not english.standard_deviation:
      raise ValueError("all English pages have the same value; use ten_tail")
    z = (english_limit - english.mean) / english.standard_deviation
    return language.mean + z * language.standard_deviation
  if rule == "median_ratio":
    if not english.quantile(0.5):
      raise ValueError("the English median is 0; use another rule")
    return english_limit * language.quantile(0.5) / english.quantile(0.5)
  raise ValueError(f"unknown rule {rule!r}; choose one of {', '.join(RULES)}")
