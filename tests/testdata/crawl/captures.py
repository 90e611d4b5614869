"""The pages of the sample crawl: the clean ones, and each kind of dirt."""

import dataclasses
import pathlib
import random
import re
import struct
import zlib

import pages

DIRT = pathlib.Path(__file__).parent / "dirt"
NUM_BULLETINS = 10
# (language, charset, where the page declares it).
LEGACY_CHARSETS = (
  ("rus_Cyrl", "windows-1251", "header"),
  ("rus_Cyrl", "koi8-r", "nowhere"),
  ("ukr_Cyrl", "windows-1251", "meta"),
  ("jpn_Jpan", "shift_jis", "header"),
  ("jpn_Jpan", "euc-jp", "meta"),
  ("kor_Hang", "euc-kr", "meta"),
  ("zho_Hani", "gb18030", "header"),
  ("zho_Hani", "gb18030", "nowhere"),
  ("fra_Latn", "iso-8859-1", "header"),
  ("tur_Latn", "iso-8859-9", "meta"),
  ("ell_Grek", "iso-8859-7", "nowhere"),
  ("arb_Arab", "windows-1256", "header"),
  ("heb_Hebr", "windows-1255", "header"),
  ("tha_Thai", "windows-874", "meta"),
)
# Pages of dirt/ in the English site: (kind, true language, note).
DIRT_PAGES = (
  ("bad_word", "eng_Latn", "has the invented bad word of bad_words/en"),
  ("bad_word_inside", "eng_Latn", "has it only inside a longer word"),
  ("personal_data", "eng_Latn", "two e-mail, public and private IP addresses"),
  ("javascript_line", "eng_Latn", "one line warns about JavaScript"),
  ("lorem_ipsum", "", "filler text"),
  ("digits_and_code", "", "tables of numbers and program text"),
  ("short_page", "eng_Latn", "too short for the three-line rule of mC4"),
)


@dataclasses.dataclass(frozen=True)
class Capture:
  """One response record to write, and its row of the truth table.

  Attributes:
    url: WARC-Target-URI.
    http: the HTTP message, header and body.
    language: true canonical code; "" if the page has none.
    kind: see README.md.
    charset: true charset of the body; "" if it is not text.
    note: for people.
    age_days: days before the rest of the crawl that it was captured.
  """

  url: str
  http: bytes
  language: str
  kind: str
  charset: str = "utf-8"
  note: str = ""
  age_days: int = 0


def clean_captures(sites: dict[str, pages.Site]) -> list[Capture]:
  """Three articles and ten bulletins a language."""
  captures = []
  for code, site in sites.items():
    for slug, page in site.articles.items():
      url = f"https://{site.host}/articles/{slug}"
      captures.append(Capture(url, pages.message(site, page), code, "article"))
    for i in range(1, NUM_BULLETINS + 1):
      url = f"https://{site.host}/bulletins/{i}"
      http = pages.message(site, pages.bulletin(site, seed=f"bulletin {i}"))
      captures.append(Capture(url, http, code, "bulletin"))
  return captures


def duplicate_captures(sites: dict[str, pages.Site]) -> list[Capture]:
  """The same page at another host, and bulletins with two sentences changed."""
  captures = []
  for code in ("eng_Latn", "hin_Deva", "ukr_Cyrl"):
    site = sites[code]
    slug, page = next(iter(site.articles.items()))
    url = f"https://{site.html_lang}.mirror.example/articles/{slug}"
    note = f"same bytes as https://{site.host}/articles/{slug}"
    http = pages.message(site, page)
    captures.append(Capture(url, http, code, "exact_duplicate", note=note))
  for code in ("eng_Latn", "deu_Latn", "rus_Cyrl", "zho_Hani", "tam_Taml"):
    site = sites[code]
    page = pages.with_other_sentences(
      pages.bulletin(site, seed="bulletin 1"),
      other=pages.bulletin(site, seed="bulletin 2"),
      places=((1, 0), (3, 1)),
    )
    url = f"https://{site.host}/bulletins/1"
    note = f"two sentences differ from {url}"
    http = pages.message(site, page)
    captures.append(
      Capture(f"{url}-corrected", http, code, "near_duplicate", note=note)
    )
  return captures


def repeated_captures(sites: dict[str, pages.Site]) -> list[Capture]:
  """One page captured four times, each older text at another spelling."""
  captures = []
  for code in ("spa_Latn", "jpn_Jpan"):
    site = sites[code]
    path = f"{site.host}/notices/today"
    newest = f"https://{path}"
    spellings = (
      (newest, 0),
      (newest, 30),
      (f"http://www.{path}/", 60),
      (f"{newest}?utm_source=letter&utm_medium=mail", 90),
    )
    for url, age in spellings:
      page = pages.bulletin(site, seed=f"notice of {age} days ago")
      kind = "superseded_capture" if age else "newest_capture"
      note = f"{age} days older than {newest}" if age else "newest of four"
      http = pages.message(site, page)
      captures.append(Capture(url, http, code, kind, note=note, age_days=age))
  return captures


def language_captures(sites: dict[str, pages.Site]) -> list[Capture]:
  """Text in another language than declared, and text in two languages."""
  captures = []
  for declared, actual in (("eng_Latn", "swh_Latn"), ("deu_Latn", "tur_Latn")):
    site, guest = sites[declared], sites[actual]
    url = f"https://{site.host}/guests/{guest.html_lang}"
    http = pages.message(site, pages.bulletin(guest, seed="guest page"))
    note = f"html lang and menu are {declared}"
    kind = "wrong_language_declared"
    captures.append(Capture(url, http, actual, kind, note=note))
  for first, second in (("eng_Latn", "fra_Latn"), ("rus_Cyrl", "hye_Armn")):
    site, guest = sites[first], sites[second]
    page, other = (list(s.articles.values())[1] for s in (site, guest))
    halves = page.paragraphs[:2] + other.paragraphs[:2]
    page = dataclasses.replace(page, paragraphs=halves)
    url = f"https://{site.host}/guests/together-{guest.html_lang}"
    http = pages.message(site, page)
    note = f"two paragraphs each of {first} and {second}"
    captures.append(Capture(url, http, "", "mixed_languages", note=note))
  return captures


def charset_captures(sites: dict[str, pages.Site]) -> list[Capture]:
  """Legacy charsets, text decoded with the wrong one, and invalid UTF-8."""
  captures = []
  for code, charset, declared in LEGACY_CHARSETS:
    site = sites[code]
    slug, page = list(site.articles.items())[2]
    meta = charset if declared == "meta" else ""
    text = pages.document(
      site, title=page.title, body=page.body(), meta_charset=meta
    )
    http = pages.html_message(
      text, charset=charset, in_header=declared == "header"
    )
    url = f"http://old.{site.host}/{charset}/{declared}/{slug}.html"
    same = f"https://{site.host}/articles/{slug}"
    note = f"declared in: {declared}; same text as {same}"
    captures.append(Capture(url, http, code, "legacy_charset", charset, note))
  for code in ("fra_Latn", "rus_Cyrl"):
    site = sites[code]
    page = pages.bulletin(site, seed="mojibake")
    text = pages.document(
      site, title=page.title, body=page.body(), meta_charset="utf-8"
    )
    wrong = text.encode("utf-8").decode("latin-1")
    http = pages.html_message(wrong, charset="utf-8", in_header=True)
    url = f"https://{site.host}/broken/mojibake"
    note = "UTF-8 read as ISO 8859-1 and written as UTF-8 again"
    captures.append(Capture(url, http, code, "mojibake", note=note))
  site = sites["por_Latn"]
  http = pages.message(site, pages.bulletin(site, seed="invalid bytes"))
  header, body = http.split(b"\r\n\r\n", 1)
  body = body.replace(b"</p>", b" \xff\xfe\xc3</p>", 2)
  header = re.sub(rb"Length: \d+", b"Length: %d" % len(body), header)
  http = header + b"\r\n\r\n" + body
  url = f"https://{site.host}/broken/bytes"
  note = "two paragraphs end in the bytes FF FE C3"
  captures.append(Capture(url, http, "por_Latn", "invalid_utf8", note=note))
  return captures


def content_captures(sites: dict[str, pages.Site]) -> list[Capture]:
  """Pages of dirt/ that one rule or another should drop, cut or mask."""
  site = sites["eng_Latn"]
  captures = []
  for kind, language, note in DIRT_PAGES:
    url = f"https://{site.host}/odd/{kind.replace('_', '-')}"
    http = pages.message(site, pages.read_fragment(DIRT / f"{kind}.html"))
    captures.append(Capture(url, http, language, kind, note=note))
  chrome = pages.document(
    site, title=site.nav[0], body="", meta_charset="utf-8"
  )
  http = pages.html_message(chrome, charset="utf-8", in_header=True)
  note = "menu, notice and footer without an article"
  url = f"https://{site.host}/"
  captures.append(Capture(url, http, "", "navigation_only", note=note))
  http = pages.http_message("200 OK", {"Content-Type": "text/html"}, b"")
  url = f"https://{site.host}/odd/empty"
  note = "status 200, a body of zero bytes"
  captures.append(Capture(url, http, "", "empty_page", "", note))
  return captures


def png_image() -> bytes:
  """A 16 x 16 grey gradient, as a PNG file."""

  def chunk(name: bytes, data: bytes) -> bytes:
    size, checksum = struct.pack(">I", len(data)), zlib.crc32(name + data)
    return size + name + data + struct.pack(">I", checksum)

  rows = b"".join(
    b"\0" + bytes(8 * (x + y) for x in range(16)) for y in range(16)
  )
  header = struct.pack(">IIBBBBB", 16, 16, 8, 0, 0, 0, 0)
  # Level 0 only stores the rows: the same bytes from every zlib.
  return (
    b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", header)
    + chunk(b"IDAT", zlib.compress(rows, 0))
    + chunk(b"IEND", b"")
  )


def protocol_captures(sites: dict[str, pages.Site]) -> list[Capture]:
  """Responses that are not pages, and one with a broken HTTP header."""
  site = sites["eng_Latn"]
  root = f"https://{site.host}"
  robots = (DIRT / "robots.txt").read_bytes()
  robots = pages.http_message("200 OK", {"Content-Type": "text/plain"}, robots)
  page = pages.read_fragment(DIRT / "not_found.html")
  missing = pages.message(site, page).replace(b"200 OK", b"404 Not Found", 1)
  moved = pages.http_message(
    "301 Moved Permanently",
    {"Location": f"{root}/bulletins/1", "Content-Type": "text/html"},
    b"",
  )
  image = pages.http_message(
    "200 OK", {"Content-Type": "image/png"}, png_image()
  )
  broken = pages.message(site, pages.bulletin(site, seed="broken header"))
  for right, wrong in (
    (rb"^HTTP/1.1 200 OK", b"HTTQ/one fine"),
    (rb"Server: village", b"a line without a colon"),
    (rb"Length: \d+", b"Length: 7 or so"),
  ):
    broken = re.sub(right, wrong, broken, count=1)
  note = "status line, a header line and Content-Length make no sense"
  return [
    Capture(f"{root}/robots.txt", robots, "", "robots_txt", note="text/plain"),
    Capture(
      f"{root}/articles/gone",
      missing,
      "eng_Latn",
      "not_found",
      note="status 404",
    ),
    Capture(f"{root}/old/bulletin", moved, "", "redirect", "", "status 301"),
    Capture(f"{root}/pictures/grey.png", image, "", "image", "", "PNG"),
    Capture(
      f"{root}/broken/header", broken, "eng_Latn", "bad_http_header", note=note
    ),
  ]


def all_captures(sites: dict[str, pages.Site]) -> list[Capture]:
  """Every capture in the order of the file: shuffled, the truncated one last.

  Raises:
    ValueError: if a language that a dirty page is made of has no sources.
  """
  makers = (
    clean_captures,
    duplicate_captures,
    repeated_captures,
    language_captures,
    charset_captures,
    content_captures,
    protocol_captures,
  )
  try:
    captures = [capture for make in makers for capture in make(sites)]
  except KeyError as error:
    raise ValueError(
      f"sources/{error.args[0]} is missing, and dirty pages are made of it;"
      " write it in the format of README.md"
    ) from error
  random.Random("order of captures").shuffle(captures)
  site = sites["eng_Latn"]
  last = Capture(
    f"https://{site.host}/broken/truncated",
    pages.message(site, pages.bulletin(site, seed="truncated")),
    "eng_Latn",
    "truncated_record",
    note="the file ends in the middle of this gzip member",
  )
  return captures + [last]
