"""The pages of the sample crawl: clean ones, and each kind of dirt."""

import dataclasses
import pathlib
import random
import re
import struct
import zlib

import pages

FOLDER = pathlib.Path(__file__).parent
NUM_BULLETINS = 10
# Where a page says what its charset is.
DECLARED_IN = ("header", "meta", "nowhere")
LEGACY_CHARSETS = (
  ("jpn_Jpan", "shift_jis", "header"),
  ("jpn_Jpan", "euc-jp", "meta"),
  ("kor_Hang", "euc-kr", "meta"),
  ("zho_Hani", "gb18030", "header"),
  ("zho_Hani", "gb18030", "nowhere"),
  ("fra_Latn", "iso-8859-1", "header"),
  ("arb_Arab", "windows-1256", "header"),
  ("heb_Hebr", "windows-1255", "header"),
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
  charset: str
  note: str
  age_days: int = 0


def clean_captures(sites: dict[str, Site]) -> list[Capture]:
  """Three articles and ten bulletins a language."""
  captures = []
  for code, site in sites.items():
    pages = [
      ("article", f"articles/{slug}", page)
      for slug, page in site.articles.items()
    ]
    pages += [
      ("bulletin", f"bulletins/{i}", bulletin_page(site, seed=f"bulletin {i}"))
      for i in range(1, NUM_BULLETINS + 1)
    ]
    for kind, path, page in pages:
      url = f"https://{site.host}/{path}"
      http = page_message(site, page)
      captures.append(Capture(url, http, code, kind, "utf-8", ""))
  return captures


def duplicate_captures(sites: dict[str, Site]) -> list[Capture]:
  """Mirrors, older captures of the same page, and bulletins with small edits."""
  captures = []
  for code in ("eng_Latn", "hin_Deva", "heb_Hebr"):
    site = sites[code]
    slug, page = next(iter(site.articles.items()))
    url = f"https://{site.html_lang}.mirror.example/articles/{slug}"
    captures.append(
      Capture(
        url,
        page_message(site, page),
        code,
        "exact_duplicate",
        "utf-8",
        f"same bytes as https://{site.host}/articles/{slug}",
      )
    )
  for code in ("fra_Latn", "jpn_Jpan"):
    site = sites[code]
    path = f"{site.host}/notices/today"
    page = bulletin_page(site, seed="notice of today")
    captures.append(
      Capture(
        f"https://{path}",
        page_message(site, page),
        code,
        "newest_capture",
        "utf-8",
        "the newest of four captures of this page",
      )
    )
    older = (
      (f"https://{path}", 30),
      (f"http://www.{path}/", 60),
      (f"https://{path}?utm_source=letter&utm_medium=mail", 90),
    )
    for url, age_days in older:
      page = bulletin_page(site, seed=f"notice {age_days} days ago")
      captures.append(
        Capture(
          url,
          page_message(site, page),
          code,
          "superseded_capture",
          "utf-8",
          f"{age_days} days older than https://{path}",
          age_days,
        )
      )
  for code in ("eng_Latn", "deu_Latn", "arb_Arab", "zho_Hani", "kor_Hang"):
    site = sites[code]
    page = with_other_sentences(
      bulletin_page(site, seed="bulletin 1"),
      other=bulletin_page(site, seed="bulletin 2"),
      places=((1, 0), (3, 1)),
    )
    captures.append(
      Capture(
        f"https://{site.host}/bulletins/1-corrected",
        page_message(site, page),
        code,
        "near_duplicate",
        "utf-8",
        f"two sentences differ from https://{site.host}/bulletins/1",
      )
    )
  return captures


def language_captures(sites: dict[str, Site]) -> list[Capture]:
  """Pages whose declared language is not that of their text."""
  captures = []
  for declared, actual in (("eng_Latn", "fra_Latn"), ("deu_Latn", "pes_Arab")):
    site = sites[declared]
    page = bulletin_page(sites[actual], seed="guest page")
    captures.append(
      Capture(
        f"https://{site.host}/guests/{sites[actual].html_lang}",
        page_message(site, page),
        actual,
        "wrong_language_declared",
        "utf-8",
        f"html lang and menu are {declared}",
      )
    )
  for first, second in (("eng_Latn", "fra_Latn"), ("heb_Hebr", "hin_Deva")):
    site = sites[first]
    pages = [list(sites[c].articles.values())[1] for c in (first, second)]
    halves = pages[0].paragraphs[:2] + pages[1].paragraphs[:2]
    captures.append(
      Capture(
        f"https://{site.host}/guests/together-{sites[second].html_lang}",
        page_message(site, dataclasses.replace(pages[0], paragraphs=halves)),
        "",
        "mixed_languages",
        "utf-8",
        f"two paragraphs each of {first} and {second}",
      )
    )
  return captures


def charset_captures(sites: dict[str, Site]) -> list[Capture]:
  """Legacy charsets, text decoded with the wrong one, and invalid UTF-8."""
  captures = []
  for code, charset, declared_in in LEGACY_CHARSETS:
    site = sites[code]
    slug, page = list(site.articles.items())[2]
    text = document(
      site,
      title=page.title,
      body=page.body(),
      html_lang=site.html_lang,
      meta_charset=charset if declared_in == "meta" else "",
    )
    captures.append(
      Capture(
        f"http://old.{site.host}/{charset}/{declared_in}/{slug}.html",
        html_message(text, charset=charset, in_header=declared_in == "header"),
        code,
        "legacy_charset",
        charset,
        f"declared in: {declared_in}; same text as"
        f" https://{site.host}/articles/{slug}",
      )
    )
  for code in ("fra_Latn", "deu_Latn"):
    site = sites[code]
    page = bulletin_page(site, seed="mojibake")
    text = document(
      site,
      title=page.title,
      body=page.body(),
      html_lang=site.html_lang,
      meta_charset="utf-8",
    )
    wrong = text.encode("utf-8").decode("latin-1")
    captures.append(
      Capture(
        f"https://{site.host}/broken/mojibake",
        html_message(wrong, charset="utf-8", in_header=True),
        code,
        "mojibake",
        "utf-8",
        "UTF-8 read as ISO 8859-1 and written as UTF-8 again",
      )
    )
  site = sites["fra_Latn"]
  page = bulletin_page(site, seed="invalid bytes")
  http = page_message(site, page)
  header, body = http.split(b"\r\n\r\n", 1)
  body = body.replace(b"</p>", b" \xff\xfe\xc3</p>", 2)
  header = re.sub(rb"Length: \d+", b"Length: %d" % len(body), header)
  captures.append(
    Capture(
      f"https://{site.host}/broken/bytes",
      header + b"\r\n\r\n" + body,
      "fra_Latn",
      "invalid_utf8",
      "utf-8",
      "two paragraphs end in the bytes FF FE C3",
    )
  )
  return captures


def content_captures(sites: dict[str, Site]) -> list[Capture]:
  """Pages of dirt/ that one rule or another should drop, cut or mask."""
  site = sites["eng_Latn"]
  captures = []
  for kind, language, note in DIRT_PAGES:
    page = read_fragment(FOLDER / "dirt" / f"{kind}.html")
    url = f"https://{site.host}/odd/{kind.replace('_', '-')}"
    http = page_message(site, page)
    captures.append(Capture(url, http, language, kind, "utf-8", note))
  chrome = document(
    site,
    title=site.nav[0],
    body="",
    html_lang=site.html_lang,
    meta_charset="utf-8",
  )
  captures.append(
    Capture(
      f"https://{site.host}/",
      html_message(chrome, charset="utf-8", in_header=True),
      "",
      "navigation_only",
      "utf-8",
      "menu, notice and footer without an article",
    )
  )
  captures.append(
    Capture(
      f"https://{site.host}/odd/empty",
      http_message("200 OK", {"Content-Type": "text/html"}, b""),
      "",
      "empty_page",
      "",
      "200 with a body of zero bytes",
    )
  )
  return captures


def png_image() -> bytes:
  """A 16 x 16 grey gradient, as a PNG file."""

  def chunk(name: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(name + data)
    return struct.pack(">I", len(data)) + name + data + checksum.to_bytes(4)

  rows = b"".join(
    b"\0" + bytes(16 * (x + y) // 2 for x in range(16)) for y in range(16)
  )
  header = struct.pack(">IIBBBBB", 16, 16, 8, 0, 0, 0, 0)
  # Level 0 stores the rows: the same bytes from every zlib.
  return (
    b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", header)
    + chunk(b"IDAT", zlib.compress(rows, 0))
    + chunk(b"IEND", b"")
  )


def protocol_captures(sites: dict[str, Site]) -> list[Capture]:
  """Responses that are not pages, and one with a broken HTTP header."""
  site = sites["eng_Latn"]
  root = f"https://{site.host}"
  robots = (FOLDER / "dirt" / "robots.txt").read_bytes()
  missing = read_fragment(FOLDER / "dirt" / "not_found.html")
  missing_html = document(
    site,
    title=missing.title,
    body=missing.body(),
    html_lang=site.html_lang,
    meta_charset="utf-8",
  ).encode()
  html_type = {"Content-Type": "text/html; charset=utf-8"}
  moved = {"Location": f"{root}/bulletins/1", **html_type}
  text_type = {"Content-Type": "text/plain"}
  image = http_message("200 OK", {"Content-Type": "image/png"}, png_image())
  page = page_message(site, bulletin_page(site, seed="broken header"))
  broken = re.sub(rb"^HTTP/1.1 200 OK", b"HTTQ/one fine", page)
  broken = broken.replace(b"Server: village", b"a line without a colon")
  broken = re.sub(rb"Length: \d+", b"Length: 7 or so", broken, count=1)
  return [
    Capture(
      f"{root}/robots.txt",
      http_message("200 OK", text_type, robots),
      "",
      "robots_txt",
      "utf-8",
      "text/plain",
    ),
    Capture(
      f"{root}/articles/gone",
      http_message("404 Not Found", html_type, missing_html),
      "eng_Latn",
      "not_found",
      "utf-8",
      "status 404",
    ),
    Capture(
      f"{root}/old/bulletin",
      http_message("301 Moved Permanently", moved, b""),
      "",
      "redirect",
      "",
      "status 301",
    ),
    Capture(f"{root}/pictures/grey.png", image, "", "image", "", "a PNG image"),
    Capture(
      f"{root}/broken/header",
      broken,
      "eng_Latn",
      "bad_http_header",
      "utf-8",
      "status line, a header line and Content-Length make no sense",
    ),
  ]


def all_captures(sites: dict[str, Site]) -> list[Capture]:
  """Every capture in the order of the file: shuffled, the truncated one last.

  Raises:
    ValueError: if a language that a dirty page is made of has no sources.
  """
  try:
    captures = (
      clean_captures(sites)
      + duplicate_captures(sites)
      + language_captures(sites)
      + charset_captures(sites)
      + content_captures(sites)
      + protocol_captures(sites)
    )
  except KeyError as error:
    raise ValueError(
      f"sources/{error.args[0]} is missing, and dirty pages are made of it;"
      " write it in the format of README.md"
    ) from error
  random.Random("order of captures").shuffle(captures)
  site = sites["eng_Latn"]
  last = Capture(
    f"https://{site.host}/broken/truncated",
    page_message(site, bulletin_page(site, seed="truncated")),
    "eng_Latn",
    "truncated_record",
    "utf-8",
    "the file ends in the middle of this gzip member",
  )
  return captures + [last]
