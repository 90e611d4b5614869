"""The grid of reward transfer in a testbed, on results made by hand."""

import numpy as np
import pytest

from mlm.evaluation import testbed, testbed_transfer

SETTINGS = {"confidence": 0.95, "num_resamples": 200}
# Four samples of two prompts, then two opponents; the same for both targets.
GOLD = np.array(
  [[0.0, 1.0, 2.0, 0.5, 1.0, 0.0], [2.0, 0.0, 1.0, 1.5, 1.0, 2.0]], np.float32
)
GOOD = GOLD[:, :4]  # likes what the hidden score likes
BAD = -GOOD


def _seed(of_deu=((GOOD, BAD), (BAD, GOOD))):
  """German's rewards are right in German and wrong in Russian, and so on."""
  rewards = dict(zip(("deu_Latn", "rus_Cyrl"), of_deu))
  return testbed.Seed(
    {},
    {
      "transfer/gold": np.stack([GOLD, GOLD]),
      **{f"transfer/{code}": np.stack(of) for code, of in rewards.items()},
    },
  )


def test_a_win_rate_is_of_what_the_reward_chose():
  seed = _seed()
  assert testbed_transfer.languages([seed]) == ["deu_Latn", "rus_Cyrl"]
  assert testbed_transfer.num_samples([seed]) == 4
  # German chooses 2.0 twice: over 1 and 0, then over 1 and level with 2.
  # Russian 0.0 twice: loses to 1, level with 0; then loses twice.
  np.testing.assert_allclose(
    testbed_transfer.win_rates(seed, "deu_Latn", 4), [[100, 75], [25, 0]]
  )
  # Of the first two samples: 1.0 and 2.0 the best, 0.0 and 0.0 the worst.
  np.testing.assert_allclose(
    testbed_transfer.win_rates(seed, "deu_Latn", 2), [[75, 75], [25, 0]]
  )


def test_cells_and_means_are_over_seeds_and_prompts():
  seeds = [_seed(), _seed(((GOOD, GOOD), (BAD, GOOD)))]
  rows = testbed_transfer.cell_rows(seeds, 4, **SETTINGS)
  cells = {(row["source"][:3], row["target"][:3]): row for row in rows}
  assert cells["deu", "deu"]["win_rate"] == pytest.approx(87.5)
  assert cells["deu", "rus"]["by_seed"] == pytest.approx([12.5, 87.5])
  assert cells["deu", "rus"]["accuracy"] == pytest.approx(0.5)
  assert cells["rus", "deu"]["accuracy"] == 0
  low, high = (cells["deu", "deu"][name] for name in ("low", "high"))
  assert 75 <= low <= 87.5 <= high <= 100
  diagonal, others, difference = testbed_transfer.mean_rows(
    seeds, 4, **SETTINGS
  )
  assert diagonal["win_rate"] == pytest.approx(87.5)
  assert others["win_rate"] == pytest.approx((12.5 + 87.5 + 12.5 + 12.5) / 4)
  assert difference["win_rate"] == pytest.approx(-56.25)
  assert list(difference) == list(diagonal) == list(others)


def test_the_matrix_stands_beside_the_published_ones():
  rows = testbed_transfer.cell_rows([_seed()], 4, **SETTINGS)
  svg = testbed_transfer.figure(rows, "A title.")
  for text in ("best of 4", "Table 6", "Table 17", "87.5", "70.7"):
    assert text in svg


def test_without_a_grid_there_are_no_languages():
  assert testbed_transfer.languages([testbed.Seed({}, {})]) == []
