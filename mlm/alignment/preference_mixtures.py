"""Preference mixtures by language, and drawing them from pairs.

The four of Dang et al. 2024 (RLHF Can Speak Many Languages) by their rows; how
prompts were shared over languages there is not published.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from mlm.languages import registry, sets

Quotas = Mapping[str, int]


def _even(codes: Sequence[str], total: int) -> dict[str, int]:
  """Rows a language that add up to the total and differ by at most one."""
  share, more = divmod(total, len(codes))
  return {code: share + (i < more) for i, code in enumerate(codes)}


MIXTURES: Mapping[str, Quotas] = {
  "EN-1": {"eng_Latn": 50_000},
  "ML-5": _even(sets.ML_5, 50_000),
  "ML-23": _even(sets.AYA_23, 50_000),  # 2,173 or 2,174 of each
  "ML-23*": _even(sets.AYA_23, 230_000),
}


def quotas(mixture: str | Quotas, num_rows: int | None) -> Quotas:
  """Rows of each language.

  Args:
    mixture: name of one of `MIXTURES`, or rows by language code.
    num_rows: rows to scale it to; None for its own.

  Raises:
    ValueError: if the name or a code is unknown, or a language would have no
      row.
  """
  if isinstance(mixture, str):
    if mixture not in MIXTURES:
      raise ValueError(
        f"mixture {mixture!r} is none of {', '.join(MIXTURES)}; choose one, or "
        "give rows by language code"
      )
    mixture = MIXTURES[mixture]
  for code in mixture:
    registry.get(code)
  return mixture if num_rows is None else _scaled(mixture, num_rows)


def _scaled(quotas: Quotas, total: int) -> Quotas:
  """The same shares of other rows, rounded by the largest remainder."""
  size = sum(quotas.values())
  exact = {code: total * number / size for code, number in quotas.items()}
  found = {code: int(share) for code, share in exact.items()}
  by_rest = sorted(exact, key=lambda code: (found[code] - exact[code], code))
  for code in by_rest[: total - sum(found.values())]:
    found[code] += 1
  without = [code for code, number in found.items() if not number]
  if without:
    raise ValueError(
      f"{total} rows leave none to {', '.join(without)}; at least "
      f"{len(quotas)} are needed"
    )
  return found


def shuffled(records: Iterable[Mapping], *, seed: int) -> list[Mapping]:
  """Records in an order that the seed and each one's "id" make, and no other."""

  def place(record):
    return hashlib.sha256(f"{seed} {record['id']}".encode()).digest()

  return sorted(records, key=place)


def draw(
  pairs: Sequence[Mapping], quotas: Quotas, *, seed: int
) -> list[Mapping]:
  """As many pairs of each language as its quota, in the order of the pairs.

  Which ones depends on the seed and each pair's id alone, and a larger quota
  has those of a smaller one: ML-23 is a part of ML-23*.

  Args:
    pairs: with "id" and "language".
    quotas: language code -> rows.
    seed: of the draw.

  Raises:
    ValueError: if a language has fewer pairs than its quota.
  """
  by_language: dict[str, list[Mapping]] = {}
  for pair in pairs:
    by_language.setdefault(pair["language"], []).append(pair)
  short = [
    f"{code} {len(by_language.get(code, ()))} of {number}"
    for code, number in quotas.items()
    if len(by_language.get(code, ())) < number
  ]
  if short:
    raise ValueError(
      f"too few pairs: {', '.join(short)}; give more, or scale the mixture down"
    )

  taken = set()
  for code, number in quotas.items():
    ordered = shuffled(by_language[code], seed=seed)
    taken.update(id(pair) for pair in ordered[:number])
  return [pair for pair in pairs if id(pair) in taken]
