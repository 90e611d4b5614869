import pytest

from beam_pipelines import corpus

MANIFEST = {"settings": {"a": 1, "b": [["x", 2]]}, "versions": {"lib": "1"}}


def counts_of(number):
  return {
    **dict.fromkeys(("documents", "words", "characters", "bytes"), number),
    "repeats": 0,
  }


def test_counts_are_sums_over_shards_and_decisions():
  counts = corpus.count(
    "mc4",
    ["read", "langid", "write"],
    [
      ("tha_Thai", "train", counts_of(2)),
      ("tha_Thai", "train", counts_of(1)),
      ("tha_Thai", "validation", counts_of(1)),
      ("amh_Ethi", "train", counts_of(1)),
    ],
    [
      ["tha_Thai", [["", "", 4], ["langid", "unsure", 2]], [3, 1]],
      ["tha_Thai", [["langid", "unsure", 1], ["langid", "other", 1]], [0, 1]],
      ["amh_Ethi", [["", "", 1]], [0, 0]],
      ["und", [["read", "broken", 5]], [0, 0]],
    ],
  )
  assert list(counts["languages"]) == ["amh_Ethi", "tha_Thai"]
  assert counts["languages"]["tha_Thai"] == {
    "train": counts_of(3),
    "validation": counts_of(1),
  }
  assert counts["funnel"]["tha_Thai"] == {
    "read": {"in": 8, "kept": 8, "dropped": {}},
    "langid": {"in": 8, "kept": 4, "dropped": {"other": 1, "unsure": 3}},
    "write": {"in": 4, "kept": 4, "dropped": {}},
  }
  assert counts["funnel"]["und"]["read"]["kept"] == 0
  assert counts["lines_removed"] == {
    "tha_Thai": {"global_duplicate": 3, "local_duplicate": 2}
  }
  table = corpus.table(counts).split("\n")
  assert table[1].split() == [
    *("tha_Thai", "8", "4"),
    *("langid.other", "1,", "langid.unsure", "3"),
  ]
  assert table[-1].split() == ["all", "14", "5"]


def test_shards_and_decisions_must_agree():
  with pytest.raises(RuntimeError, match="2 documents in shards"):
    corpus.count(
      "mc4",
      ["read"],
      [("tha_Thai", "train", counts_of(2))],
      [["tha_Thai", [["", "", 3]], [0, 0]]],
    )


def test_a_directory_belongs_to_one_manifest(tmp_path):
  output = str(tmp_path / "c")
  (tmp_path / "c").mkdir()
  (tmp_path / "c" / "manifest.json.partial").write_text("{")  # a killed run
  assert corpus.claim(output, MANIFEST) is None
  assert corpus.claim(output, MANIFEST) is None
  for other, told in (
    (
      {"settings": {"a": 1, "b": []}},
      r'begun with b = \[\["x", 2\]\], not \[\]',
    ),
    ({"settings": {"b": [["x", 2]]}}, "a = 1, not null"),
    ({"versions": {"lib": "2"}}, 'lib = "1", not "2"'),
  ):
    with pytest.raises(corpus.InputError, match=told):
      corpus.claim(output, {**MANIFEST, **other})
  corpus.write_json(f"{output}/counts.json", {"finished": 1})
  newer = {**MANIFEST, "versions": {"lib": "2"}}
  assert corpus.claim(output, newer) == {"finished": 1}
  with pytest.raises(corpus.InputError, match="was made with a = 1, not 2"):
    corpus.claim(output, {**MANIFEST, "settings": {"a": 2, "b": [["x", 2]]}})


def test_directories_of_others_are_left_alone(tmp_path):
  (tmp_path / "thesis.txt").write_text("years of work")
  with pytest.raises(corpus.InputError, match="choose an empty directory"):
    corpus.claim(str(tmp_path), MANIFEST)
  with pytest.raises(corpus.InputError, match="cannot write to --output"):
    corpus.claim(str(tmp_path / "thesis.txt" / "c"), MANIFEST)


def test_inputs_are_found_once_and_in_order(tmp_path):
  for name in ("b.warc.gz", "a.warc.gz", "c.wet.gz"):
    (tmp_path / name).write_bytes(b"x" * 3)
  patterns = f"{tmp_path}/*.warc.gz,{tmp_path}/b.warc.gz"
  assert corpus.find_inputs(patterns) == [
    (f"{tmp_path}/a.warc.gz", 3),
    (f"{tmp_path}/b.warc.gz", 3),
  ]
  with pytest.raises(corpus.InputError, match=r"no file matches .*/d\*"):
    corpus.find_inputs(f"{tmp_path}/*.wet.gz,{tmp_path}/d*")
  with pytest.raises(corpus.InputError, match="cannot read .* directory"):
    corpus.find_inputs(str(tmp_path))


def test_misspelt_names_get_a_hint():
  known = ["languages", "shards"]
  assert corpus.nearest("langauges", known) == "; did you mean languages?"
  assert corpus.nearest("zzz", known) == ""
