"""The chain of `make quickstart` with the tiny overlay, on part of the sample."""

import csv
import hashlib
import html.parser
import json
import pathlib
import re
import shlex
import shutil
import subprocess
import zlib

import nbclient
import nbformat
import pytest
import seqio

from beam_pipelines import mc4
from mlm import run as launcher
from mlm.checkpoints import manager
from mlm.jobs import judges
from mlm.languages import registry

ROOT = pathlib.Path(__file__).parents[1]
SAMPLE = ROOT / "tests" / "testdata" / "crawl" / "sample_crawl"
LANGUAGES = (
  "eng_Latn",
  "rus_Cyrl",
  "arb_Arab",
  "hin_Deva",
  "heb_Hebr",
  "zul_Latn",
)
MESH = "--gin.MESH_SHAPE={'data': 2, 'fsdp': 2, 'tensor': 2}"


def _part_of_the_sample(folder: pathlib.Path) -> pathlib.Path:
  """The members of the sample whose pages are in LANGUAGES, and the truth."""
  truth = SAMPLE.with_suffix(".tsv")
  with open(truth, encoding="utf-8", newline="") as f:
    rows = csv.DictReader(f, delimiter="\t", quoting=csv.QUOTE_NONE)
    urls = {
      row["url"].encode()
      for row in rows
      if row["language"] in LANGUAGES and row["kind"] in ("article", "bulletin")
    }
  data = SAMPLE.with_suffix(".warc.gz").read_bytes()
  members = []
  while data:
    decompressor = zlib.decompressobj(wbits=31)
    text = decompressor.decompress(data)
    member = data[: len(data) - len(decompressor.unused_data)]
    target = re.search(rb"WARC-Target-URI: (\S+)", text)
    if target and target[1] in urls:
      members.append(member)
    data = decompressor.unused_data
  crawl = folder / "part.warc.gz"
  crawl.write_bytes(b"".join(members))
  shutil.copy(truth, folder / "part.tsv")
  return crawl


def _commands(crawl: pathlib.Path, run: pathlib.Path) -> list[list[str]]:
  """Module and arguments of each step that make would run."""
  told = subprocess.run(
    [
      *("make", "--dry-run", "--always-make", "quickstart"),
      "OVERLAY=gin/overlays/tiny",
      f"INPUT={crawl}",
      f"TRUTH={crawl.with_name('part.tsv')}",
      f"RUN={run}",
    ],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  lines = [
    shlex.split(line) for line in told.stdout.split("\n") if " -m " in line
  ]
  steps = [line[line.index("-m") + 1 :] for line in lines]
  return [s for s in steps if s[0] in ("mlm.run", "beam_pipelines.mc4")]


def _run_chain(commands):
  for name in list(seqio.TaskRegistry.names()):
    if name.startswith("mc4."):  # another run's, in the same process
      seqio.TaskRegistry.remove(name)
  for module, *arguments in commands:
    if module == "beam_pipelines.mc4":
      assert mc4.main(arguments) == 0
      continue
    job, *_ = arguments
    on_host = ("train_tokenizer", "cache_tokens", "make_instructions")
    if job not in (*on_host, "cache_records", "report"):
      arguments.append(MESH)  # the tests have eight devices
    assert launcher.main(arguments) == 0, job


def _digests(run: pathlib.Path) -> dict[str, str]:
  return {
    str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted(run.rglob("*"))
    if path.is_file()
  }


class _Tables(html.parser.HTMLParser):
  """Cells of all tables, {heading: rows}."""

  def __init__(self, page: str):
    super().__init__()
    self.tables, self._heading, self._tag = {}, "", None
    self.feed(page)

  def handle_starttag(self, tag, attributes):
    self._tag = tag
    if tag == "h2":
      self._heading = ""
    elif tag == "tr":
      self.tables.setdefault(self._heading, []).append([])
    elif tag in ("td", "th"):
      self.tables[self._heading][-1].append("")

  def handle_endtag(self, tag):
    self._tag = None

  def handle_data(self, data):
    if self._tag == "h2":
      self._heading += data
    elif self._tag in ("td", "th"):
      self.tables[self._heading][-1][-1] += data


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
  """(run directory, digests after the first run, digests after the second)."""
  folder = tmp_path_factory.mktemp("quickstart")
  commands = _commands(_part_of_the_sample(folder), folder / "run")
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(ROOT)
    _run_chain(commands)
    first = _digests(folder / "run")
    _run_chain(commands)
  return folder / "run", first, _digests(folder / "run")


def test_a_second_run_repeats_nothing(chain):
  _, first, second = chain
  assert {f"{job}/config.gin" for job in ("pretrain", "rloo")} <= set(first)
  assert second == first


def test_the_report_is_one_file_with_every_language(chain):
  run, *_ = chain
  page = (run / "report" / "report.html").read_text(encoding="utf-8")
  assert page.count("<svg") == 9
  assert not re.search(r"(?:src|href)=[\"']?https?:", page)
  tables = _Tables(page).tables
  counts = json.loads((run / "corpus" / "counts.json").read_text())
  kept = {
    row[0]: int(row[2].replace(",", ""))
    for row in tables["Pages before and after each filter"][1:]
  }
  for code in LANGUAGES:
    assert kept[code] == sum(
      split["documents"] for split in counts["languages"][code].values()
    )
  truth = tables["Language identification against the truth"][1:]
  assert {row[0]: int(row[1]) for row in truth} == dict.fromkeys(LANGUAGES, 13)
  for title in (
    "Mixture: shares of tokens",
    "Held-out bits per byte",
    "Generations on held-out prompts",
  ):
    assert {row[0] for row in tables[title][1:]} >= set(LANGUAGES)
  groups = {row[0]: row for row in tables["By group"][1:]}
  assert groups["script Latn"][1] == "2"
  assert int(groups["script Latn"][3]) == kept["eng_Latn"] + kept["zul_Latn"]


def test_losses_are_logged_for_every_language(chain):
  run, *_ = chain
  lines = (run / "pretrain" / "metrics.jsonl").read_text().split("\n")
  lines = [json.loads(line) for line in lines if line]
  assert [line["step"] for line in lines] == [1, 3]
  seen = {code for line in lines for code in line["loss_by_language"]}
  assert seen <= set(registry.codes())
  assert len(seen & set(LANGUAGES)) >= 4


def test_the_policy_says_which_reward_model_trained_it(chain):
  run, *_ = chain
  calibration = json.loads((run / "reward_model/calibration.json").read_text())
  metadata = manager.read_metadata(run / "rloo" / "checkpoints")
  assert metadata["reward_model"] == {
    name: calibration[name] for name in ("fingerprint", "seed")
  }
  with pytest.raises(ValueError, match="the one that trained"):
    judges.check_held_out(
      str(run / "reward_model"), policies=[str(run / "rloo")], rewards=[]
    )


def test_results_say_reward_and_kl_by_language(chain):
  run, *_ = chain
  results = json.loads((run / "evaluation" / "results.json").read_text())
  for name in ("sft", "rloo"):
    rows = results["generation"][name]["by_language"]
    assert set(rows) == set(LANGUAGES)
    assert sum(r["samples"] for r in rows.values()) == 12 * 4
  assert set(results["bits_per_byte"]) == set(LANGUAGES)
  assert all(
    0 < row["bits_per_byte"] < 16 for row in results["bits_per_byte"].values()
  )


def test_the_notebook_runs_on_it(chain, monkeypatch):
  run, *_ = chain
  monkeypatch.setenv("MLM_RUN", str(run))
  notebook = nbformat.read(ROOT / "notebooks" / "explore_run.ipynb", 4)
  client = nbclient.NotebookClient(
    notebook, resources={"metadata": {"path": ROOT / "notebooks"}}
  )
  client.execute()
  last = "".join(o.get("text", "") for o in notebook.cells[-1].outputs)
  assert last.count("sft:") == last.count("rloo:") == 2
