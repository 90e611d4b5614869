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
  """Byte-order mark, then HTTP header, then meta tag, then detection.

  Source: WHATWG Encoding, section 6 ("a byte order mark is more authoritative
  than anything else"), whose table also reads the labels.
  """
  for mark, name in _BOMS.items():
    if record.body.startswith(mark):
      return name
  named = record.charset and encoding.map_encoding_to_html5(
    record.charset.strip(" \"';"), fallback_utf8=False
  )
  # An unknown label says nothing: look at the bytes.
  return named or encoding.detect_encoding(record.body, from_html_meta=True)


def extract_text(record: read.Record) -> str:
  """Main content of an HTML page, or the text of a WET record.

  A block of the page (paragraph, heading, list item, table row) is one line,
  as mC4's rules on lines suppose: line breaks in the source of a paragraph are
  spaces, `<br>` and the lines of `<pre>` start lines of their own.

  Bytes that are not valid in the charset become U+FFFD. Main content is
  resiliparse's heuristic: navigation, notices and footers are left out, and so
  is a `<ul>` near the root of the page, which it takes for a menu.
  """
  if record.is_text:
    text = record.body.decode("utf-8", errors="replace")
  else:
    page = encoding.bytes_to_str(
      record.body, _charset(record), errors="replace", fallback_encodings=()
    )
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
