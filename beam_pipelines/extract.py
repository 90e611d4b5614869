"""From a record's bytes to lines of text."""

from resiliparse.extract import html2text
from resiliparse.parse import encoding
from resiliparse.parse import html as html_parser

from beam_pipelines import read

_BOMS = {
  b"\xef\xbb\xbf": "utf-8",
  b"\xff\xfe": "utf-16-le",
  b"\xfe\xff": "utf-16-be",
}


def _charset(record: read.Record) -> str:
  """HTTP header, then byte-order mark and meta tag, then detection."""
  if record.charset:
    try:
      b"".decode(record.charset)
      return record.charset
    except LookupError:
      pass  # a misspelt charset says nothing; look at the bytes
  for mark, name in _BOMS.items():
    if record.body.startswith(mark):
      return name
  return encoding.detect_encoding(record.body, from_html_meta=True)


def extract_text(record: read.Record) -> str:
  """Main content of an HTML page, or the text of a WET record; one line a block.

  Bytes that are not valid in the charset become U+FFFD. Main content is
  resiliparse's heuristic: navigation, notices and footers are left out.
  """
  if record.is_text:
    text = record.body.decode("utf-8", errors="replace")
  else:
    page = encoding.bytes_to_str(record.body, _charset(record))
    tree = html_parser.HTMLTree.parse(page)
    text = html2text.extract_plain_text(
      tree,
      preserve_formatting=True,
      main_content=True,
      list_bullets=False,
      alt_texts=False,
      links=False,
      form_fields=False,
      noscript=False,
    )
  lines = (" ".join(line.split()) for line in text.split("\n"))
  return "\n".join(line for line in lines if line)
