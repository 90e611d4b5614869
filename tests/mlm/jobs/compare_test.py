"""The job compare on tiny policies: resumed, blinded, and refused."""

import csv
import http.server
import json
import pathlib
import shutil
import threading

import pytest

from mlm.jobs import compare, judges, responses


def _compare(aligned, output, **changes):
  output.mkdir(exist_ok=True)
  settings = {
    "tokenizer": aligned.tokenizer,
    "a": aligned.dpo,
    "b": aligned.base,
    "prompts": aligned.prompts,
    "output": str(output),
    "tasks": ["continue"],
    "cluster_field": "source_url",
    "judge": judges.second_identifier(tokenizer=aligned.tokenizer, margin=0.01),
    "seen_languages": ["eng_Latn"],
    "mesh_shape": aligned.mesh,
    "batch_size": 8,
    "max_prompts": 16,
    "samples_per_prompt": 2,
    "temperature": 1.0,
    "seed": 1,
    "num_resamples": 100,
    "confidence": 0.9,
    **aligned.lengths,
  }
  compare.compare(**{**settings, **changes})
  path = output / "results.json"
  return json.loads(path.read_text()) if path.exists() else None


@pytest.fixture(scope="module")
def compared(aligned, tmp_path_factory):
  output = tmp_path_factory.mktemp("compare") / "out"
  return output, _compare(aligned, output)


def _lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_language_has_rates_lengths_and_counts(compared, aligned):
  output, results = compared
  for part in ("win_rate", "length_controlled"):
    assert set(results[part]["by_language"]) == set(aligned.languages)
    assert {"seen", "unseen", "script Cyrl"} <= set(results[part]["groups"])
  for row in results["win_rate"]["by_language"].values():
    assert row["win"] + row["loss"] + row["tie"] == pytest.approx(100)
    assert row["clusters"] == 4
  assert results["win_rate"]["overall"]["clusters"] == 4  # shared by languages
  assert all(r["comparisons"] == 8 for r in results["judging"].values())
  assert len(_lines(output / "verdicts.jsonl")) == 4 * 4 * 2
  page = (output / "comparison.html").read_text()
  assert page.count("<svg") == 1 and "90% bootstraps" in page
  for code in aligned.languages:
    assert code in page


def test_swapped_sides_mirror_the_rates(compared, aligned, tmp_path):
  output, results = compared
  mirrored = _compare(
    aligned,
    tmp_path / "swapped",
    a=str(output / "responses_b.jsonl"),
    b=str(output / "responses_a.jsonl"),
  )
  for code, row in results["win_rate"]["by_language"].items():
    other = mirrored["win_rate"]["by_language"][code]
    assert (row["win"], row["loss"]) == (other["loss"], other["win"])
    assert row["low"] == pytest.approx(-other["high"])
  delta, other = (
    r["length_controlled"]["overall"]["delta"] for r in (results, mirrored)
  )
  assert delta == pytest.approx(-other, abs=1e-6)


def test_a_policy_against_its_own_answers_only_ties(
  compared, aligned, tmp_path
):
  output, _ = compared
  same = str(output / "responses_a.jsonl")
  row = _compare(aligned, tmp_path / "same", a=same, b=same)["win_rate"]
  assert row["overall"]["tie"] == 100


def test_a_job_killed_before_its_results_samples_nothing_again(
  compared, aligned, tmp_path, monkeypatch
):
  output, results = compared
  again = tmp_path / "again"
  shutil.copytree(output, again)
  (again / "results.json").unlink()

  def refuse(*_, **__):
    raise AssertionError("sampled again")

  monkeypatch.setattr(responses, "sample", refuse)
  assert _compare(aligned, again) == results
  (again / "results.json").unlink()
  with pytest.raises(ValueError, match="was sampled with"):
    _compare(aligned, again, seed=2)


def test_people_judge_through_files(compared, aligned, tmp_path):
  output, _ = compared
  sides = {side: str(output / f"responses_{side}.jsonl") for side in ("a", "b")}
  folder = tmp_path / "people"
  judge = judges.through_files(seed=3)
  assert _compare(aligned, folder, judge=judge, **sides) is None
  with open(folder / "for_people.tsv", encoding="utf-8", newline="") as f:
    rows = list(csv.DictReader(f, delimiter="\t"))
  assert len(rows) == 2 * 32
  told = ["id\tannotator\tverdict"]
  for row in rows:  # someone who likes what is shorter
    first, second = len(row["answer_A"]), len(row["answer_B"])
    verdict = "TIE" if first == second else "A" if first < second else "B"
    told.append(f"{row['id']}\tAna\t{verdict}")
  (folder / "verdicts.tsv").write_text("\n".join(told) + "\n")
  results = _compare(aligned, folder, judge=judge, **sides)
  a, b = (
    [
      len(response["text"])
      for record in _lines(pathlib.Path(sides[side]))
      for response in record["responses"]
    ]
    for side in ("a", "b")
  )
  row = results["win_rate"]["overall"]
  assert row["win"] == pytest.approx(
    100 * sum(x < y for x, y in zip(a, b)) / 32
  )
  assert results["length_controlled"]["slope"]["value"] < 0


def _reward_judge(aligned, directory):
  return judges.held_out_reward_model(
    directory=directory,
    tokenizer=aligned.tokenizer,
    batch_size=8,
    margin=0.0,
    **aligned.lengths,
  )


def test_a_held_out_reward_model_judges(aligned, tmp_path):
  judge = _reward_judge(aligned, aligned.reward_models["eng_Latn"])
  results = _compare(aligned, tmp_path / "rm", a=aligned.rloo, judge=judge)
  overall = results["win_rate"]["overall"]
  assert overall["win"] + overall["loss"] > 50  # scores that differ
  assert all(r["inconsistent"] == 0 for r in results["judging"].values())


def test_the_reward_model_that_trained_a_policy_may_not_judge_it(
  aligned, tmp_path
):
  own = aligned.reward_models["all"]
  for side in ("a", "b"):
    with pytest.raises(ValueError, match="fingerprint and the seed.*cannot"):
      _compare(
        aligned,
        tmp_path / "own",
        judge=_reward_judge(aligned, own),
        **{side: aligned.rloo},
      )
  copied = tmp_path / "copied"
  shutil.copytree(own, copied)
  calibration = json.loads((copied / "calibration.json").read_text())
  calibration["seed"] = 17
  (copied / "calibration.json").write_text(json.dumps(calibration))
  with pytest.raises(ValueError, match="has the fingerprint of"):
    judges.check_held_out(str(copied), policies=[aligned.rloo], rewards=[])
  judges.check_held_out(
    own,
    policies=[aligned.base, aligned.dpo],
    rewards=[aligned.dpo, aligned.reward_models["eng_Latn"]],
  )
  with pytest.raises(ValueError, match="the fingerprint of the reward"):
    judges.check_held_out(str(copied), policies=[], rewards=[own])
  del calibration["fingerprint"]
  (copied / "calibration.json").write_text(json.dumps(calibration))
  with pytest.raises(ValueError, match="has no fingerprint"):
    judges.check_held_out(str(copied), policies=[aligned.rloo], rewards=[])


class _LikesTheFirst(http.server.BaseHTTPRequestHandler):
  """A chat model that prefers what it reads first."""

  def do_POST(self):
    self.rfile.read(int(self.headers["Content-Length"]))
    message = {"content": "Hard to say.\nA"}
    data = json.dumps({"choices": [{"message": message}]}).encode()
    self.send_response(200)
    self.send_header("Content-Length", str(len(data)))
    self.end_headers()
    self.wfile.write(data)

  def log_message(self, *arguments):
    pass


def test_a_chat_model_that_looks_at_the_place_ties_everywhere(
  compared, aligned, tmp_path, monkeypatch
):
  output, _ = compared
  monkeypatch.setenv("no_proxy", "127.0.0.1")
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _LikesTheFirst)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  results = _compare(
    aligned,
    tmp_path / "chat",
    a=str(output / "responses_a.jsonl"),
    b=str(output / "responses_b.jsonl"),
    judge=judges.chat(
      base_url=f"http://127.0.0.1:{server.server_port}",
      model="some-model",
      api_key_variable="",
      timeout_seconds=30.0,
      num_tries=2,
      retry_seconds=0.01,
      max_tokens=16,
      concurrency=2,
    ),
  )
  server.shutdown()
  server.server_close()
  assert results["win_rate"]["overall"]["tie"] == 100
  for row in results["judging"].values():
    assert (row["first"], row["second"]) == (2 * row["comparisons"], 0)
    assert row["inconsistent"] == row["comparisons"]
  assert len(_lines(tmp_path / "chat" / "judge_answers.jsonl")) <= 64


@pytest.mark.parametrize(
  "change, message",
  [
    ({"cluster_field": "source_id"}, "has no source_id"),
    ({"tasks": ["repeat"]}, "no prompts of the tasks repeat"),
  ],
)
def test_prompts_that_cannot_be_used_are_told(
  aligned, tmp_path, change, message
):
  with pytest.raises(ValueError, match=message):
    _compare(aligned, tmp_path / "bad", **change)


def test_files_that_answer_other_prompts_are_told(compared, aligned, tmp_path):
  output, _ = compared
  lines = _lines(output / "responses_a.jsonl")
  for name, change, message in (
    ("other", {"prompt": "?"}, "another prompt"),
    ("id", {"id": "x"}, "no prompt under"),
    ("few", {"responses": []}, "0 responses to"),
  ):
    path = tmp_path / f"{name}.jsonl"
    changed = [{**lines[0], **change}, *lines[1:]]
    path.write_text("\n".join(map(json.dumps, changed)))
    with pytest.raises(ValueError, match=message):
      _compare(aligned, tmp_path / "files", a=str(path))
