import pytest

from beam_pipelines.filters import length

LETTERS = "aяαعक一가ก"  # eight scripts: lengths are characters, not bytes


@pytest.mark.parametrize("letter", LETTERS)
def test_three_lines_of_two_hundred_characters(letter):
  def reason(*lengths):
    text = "\n".join(letter * n for n in lengths)
    return length.long_lines(text, min_lines=3, min_characters=200)

  assert reason(200, 200, 200) is None
  assert reason(5, 200, 1, 999, 200, 3) is None
  assert reason(200, 199, 200) == "short_lines"
  assert reason(600, 600) == "few_lines"


def test_white_space_does_not_make_a_line_long():
  text = "\n".join([" " * 100 + "б" * 199 + " " * 100] * 3)
  assert (
    length.long_lines(text, min_lines=3, min_characters=200) == "short_lines"
  )


@pytest.mark.parametrize("letter", LETTERS)
def test_page_length_in_characters(letter):
  assert length.page_length(letter * 190_000, max_characters=190_000) is None
  assert (
    length.page_length(letter * 190_001, max_characters=190_000) == "too_long"
  )
