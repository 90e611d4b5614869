"""The printed tables against a worked example."""

from mlm.evaluation import tables


def _row(reward, error, kl=None):
  row = {"reward": reward, "reward_standard_error": error}
  return row if kl is None else {**row, "kl": kl}


def test_every_language_has_a_row_and_classes_average_over_languages():
  codes = ("eng_Latn", "jpn_Jpan", "amh_Ethi")  # Joshi class 5, 5, 2
  sft = dict(zip(codes, (_row(1.0, 0.1), _row(2.0, None), _row(0.5, 0.2))))
  rloo = dict(
    zip(codes, (_row(2.0, 0.1, 4.0), _row(3.0, 0.1, 6.0), _row(1.5, 0.2, 1.0)))
  )
  win = {
    "overall": {"delta": 12.0, "low": -1.0, "high": 25.0},
    "by_language": {"eng_Latn": {"delta": 12.0, "low": -1.0, "high": 25.0}},
  }
  table = tables.results_tables(
    {
      "bits_per_byte": {
        "amh_Ethi": {
          "bits_per_byte": 1.25,
          "unigram_entropy": 2.5,
          "train_tokens": 12345,
        }
      },
      "generation": {
        "sft": {"overall": _row(1.2, 0.1), "by_language": sft},
        "rloo": {"overall": _row(2.2, 0.1, 3.7), "by_language": rloo},
      },
      "win_rate": win,
    }
  )
  lines = [line.split() for line in table.splitlines()]
  assert ["amh_Ethi", "1.250", "2.500", "12,345"] in lines
  assert "overall 1.200 ± 0.100 2.200 ± 0.100 3.70 12.0 [-1.0, 25.0]" in [
    " ".join(line) for line in lines
  ]
  assert [line for line in lines if line[:1] == ["jpn_Jpan"]] == [
    "jpn_Jpan 2.000 ± nan 3.000 ± 0.100 6.00 not judged".split()
  ]
  assert "class 5 (2) 1.500 2.500 5.00 12.0".split() in lines
  assert "class 2 (1) 0.500 1.500 1.00 not judged".split() in lines
