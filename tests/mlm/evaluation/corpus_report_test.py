"""The audit of a corpus: every number and example in it, scripts shown right."""

import html.parser
import re

import pytest

from beam_pipelines import mc4
from mlm import run

ROOT_RELATIVE = "tests/testdata/crawl/sample_crawl"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
  output = tmp_path_factory.mktemp("audit") / "corpus"
  counts = mc4.run(
    [
      f"--input={ROOT_RELATIVE}.warc.gz",
      f"--output={output}",
      "--validation_modulus=5",
    ]
  )
  return output, counts


class _Page(html.parser.HTMLParser):
  """Cells of tables by section, and (attributes, text) of examples."""

  def __init__(self, text):
    super().__init__()
    self.rows, self.examples = {}, []
    self._in, self._section = [], ""
    self.feed(text)

  def handle_starttag(self, tag, attributes):
    self._in.append(tag)
    if tag == "h2":
      self._section = ""
    if tag == "tr":
      self.rows.setdefault(self._section, []).append([])
    if tag == "td":
      self.rows[self._section][-1].append("")
    if tag == "div" and "figure" in self._in:
      self.examples.append([dict(attributes), ""])

  def handle_endtag(self, tag):
    while self._in and self._in.pop() != tag:
      pass

  def handle_data(self, data):
    if self._in and self._in[-1] == "h2":
      self._section += data
    elif self._in and self._in[-1] == "td":
      self.rows[self._section][-1][-1] += data
    elif self._in and self._in[-1] == "div" and "figure" in self._in:
      self.examples[-1][1] += data


def _audit(corpus, output, *more):
  arguments = [
    *("audit", "--gin_file=gin/jobs/audit.gin"),
    *(f"--gin.CORPUS={corpus}", f"--gin.OUTPUT={output}", *more),
  ]
  return run.main(arguments)


def test_numbers_and_examples_are_those_of_the_corpus(corpus, tmp_path):
  directory, counts = corpus
  truth = f"--gin.TRUTH={ROOT_RELATIVE}.tsv"
  assert _audit(directory, tmp_path, truth) == 0
  text = (tmp_path / "audit.html").read_text(encoding="utf-8")
  page = _Page(text)
  filters = page.rows["Pages before and after each filter"][1:]
  assert {row[0]: int(row[1].replace(",", "")) for row in filters} == {
    code: funnel["read"]["in"] for code, funnel in counts["funnel"].items()
  }
  for row in page.rows["What each filter removed"][1:]:
    shares = [float(cell.rstrip("%")) for cell in row[1:]]
    assert sum(shares) == pytest.approx(100, abs=0.1 * len(shares))
  sizes = page.rows["Pages and words of each language"][1:]
  assert {row[0]: int(row[1].replace(",", "")) for row in sizes} == {
    code: sum(split["documents"] for split in splits.values())
    for code, splits in counts["languages"].items()
  }
  kept = {attributes["lang"] for attributes, _ in page.examples}
  assert {"ar", "el", "am", "th"} <= kept
  assert all(attributes["dir"] == "auto" for attributes, _ in page.examples)
  arabic = [t for attributes, t in page.examples if attributes["lang"] == "ar"]
  assert any(re.search("[\u0621-\u064a]{3}", example) for example in arabic)
  dropped = sum(
    len(row["dropped"])
    for funnel in counts["funnel"].values()
    for row in funnel.values()
  )
  assert len(page.examples) == dropped + len(counts["languages"])


def test_mistakes_are_told_before_any_work(corpus, capsys, tmp_path):
  assert _audit(tmp_path / "none", tmp_path / "out") == 2
  assert "no corpus at" in capsys.readouterr().err
  assert _audit(corpus[0], tmp_path / "out", "--gin.TRUTH=/no.tsv") == 2
  assert "/no.tsv" in capsys.readouterr().err
