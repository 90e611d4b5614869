from beam_pipelines.dedup import lines, smallest


def test_a_line_folds_case_and_outer_space_only():
  same = [("Мост", " мост\t"), ("ΓΈΦΥΡΑ", "γέφυρα"), ("Pont", "PONT")]
  for a, b in same:
    assert lines.line_hash(a) == lines.line_hash(b)
  for a, b in [("橋", "桥"), ("पुल", "पूल"), ("a b", "ab"), ("x.", "x")]:
    assert lines.line_hash(a) != lines.line_hash(b)


def lost_pages(owners):
  return [page for _, (_, page) in smallest.losers_of(owners)]


def test_the_smallest_hash_of_a_url_owns_a_line():
  owners = [(b"\x07", "c"), (b"\x01", "a"), (b"\x03", "b")]
  assert lost_pages(owners) == ["c", "b"]
  assert lost_pages(owners[:1]) == []


def test_worked_example():
  """Owners by URL hash: page 1 before page 2.

  Shared: "Home" and "القائمة". Page 2 repeats "मेनू" in other case nowhere
  else, so its first copy stays.
  """
  pages = {
    "1": "Home\nالقائمة\nEine Brücke\nHOME ",
    "2": "home\nमेनू\nالقائمة\n다리\nमेनू",
  }
  hashes = {"1": b"\x01", "2": b"\x02"}
  by_line = {}
  for page, text in pages.items():
    for digest in lines.line_hashes(text):
      by_line.setdefault(digest, []).append((hashes[page], page))
  lost = {"1": set(), "2": set()}
  for digest, owners in by_line.items():
    for page in lost_pages(owners):
      lost[page].add(digest)
  assert lines.remove_lines(pages["1"], lost["1"]) == (
    "Home\nالقائمة\nEine Brücke",
    0,
    1,
  )
  assert lines.remove_lines(pages["2"], lost["2"]) == ("मेनू\n다리", 2, 1)


def test_each_line_survives_exactly_once():
  texts = {
    str(i): "\n".join(f"line {n % (i + 1)}" for n in range(9)) for i in range(6)
  }
  by_line = {}
  for page, text in texts.items():
    for digest in lines.line_hashes(text):
      by_line.setdefault(digest, []).append((page.encode(), page))
  kept = []
  for page, text in texts.items():
    lost = {d for d, owners in by_line.items() if page in lost_pages(owners)}
    kept += lines.remove_lines(text, lost)[0].split("\n")
  kept = [line for line in kept if line]
  assert sorted(kept) == sorted(
    {x for t in texts.values() for x in t.split("\n")}
  )
