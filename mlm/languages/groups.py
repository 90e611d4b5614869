"""Groups of languages by which results are reported, after each language."""

from collections.abc import Iterable, Mapping, Sequence

from mlm.languages import registry

GROUPINGS = ("joshi_class", "script", "family")


def members(codes: Iterable[str], grouping: str) -> dict[str, list[str]]:
  """The languages of each group, the largest group first.

  Args:
    codes: canonical codes.
    grouping: one of GROUPINGS; Joshi classes are ordered 5 to 0 instead.

  Returns:
    {group: codes}; "-" collects languages without a family.

  Raises:
    ValueError: if the grouping is unknown.

  Source: classes of Joshi et al. 2020.
  """
  if grouping not in GROUPINGS:
    raise ValueError(
      f"unknown grouping {grouping!r}; choose one of {', '.join(GROUPINGS)}"
    )
  groups: dict[str, list[str]] = {}
  for code in codes:
    value = getattr(registry.get(code), grouping)
    groups.setdefault(str(value) or "-", []).append(code)
  if grouping == "joshi_class":
    return dict(sorted(groups.items(), reverse=True))
  return dict(sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])))


def macro_average(
  values: Mapping[str, float], codes: Sequence[str]
) -> float | None:
  """Mean over those languages that have a value; None if none has."""
  known = [values[code] for code in codes if code in values]
  return sum(known) / len(known) if known else None
