"""Builds the sample crawl, a WARC file and its truth table, from `sources/`.

    python tests/testdata/crawl/build.py --output sample_crawl.warc.gz

Writes the WARC and, beside it, the same name ending in `.tsv`: one row a
response record. README.md says what the pages are. The result depends on the
committed sources only: seeds and dates are fixed and no clock is read.
"""

import argparse
import base64
import dataclasses
import datetime
import hashlib
import html
import json
import pathlib
import random
import re
import struct
import uuid
import zlib

FOLDER = pathlib.Path(__file__).parent
MIN_PARAGRAPH_CHARACTERS = 220  # mC4 wants three lines of 200
NUM_ARTICLES = 3
NUM_BULLETINS = 10
FIRST_CAPTURE = datetime.datetime(2024, 5, 6, 4, 0, 0)
SECONDS_BETWEEN_CAPTURES = 37
TRUTH_COLUMNS = ("url", "language", "kind", "charset", "note")
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
# Python's name where it differs from the one that pages declare.
CODECS = {"windows-874": "cp874"}
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
class Page:
  """Title and paragraphs; a paragraph is a tuple of sentences, as plain text."""

  title: str
  paragraphs: tuple[tuple[str, ...], ...]
  joiner: str

  def body(self) -> str:
    """The page as an HTML fragment, one line a paragraph."""
    lines = [f"<h1>{html.escape(self.title, quote=False)}</h1>"]
    for sentences in self.paragraphs:
      text = html.escape(self.joiner.join(sentences), quote=False)
      lines.append(f"<p>{text}</p>")
    return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Site:
  """One language: the chrome around its pages, articles, bulletin grammar."""

  language: str
  html_lang: str
  host: str
  site_name: str
  nav: tuple[str, ...]
  cookie_notice: str
  footer: str
  articles: dict[str, Page]
  bulletin: dict


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


def read_fragment(path: pathlib.Path) -> Page:
  """Reads `<h1>` and then `<p>` elements, one a line, without other markup.

  Raises:
    ValueError: if a line is something else; correct that line.
  """
  lines = path.read_text(encoding="utf-8").splitlines()
  tags = ["h1"] + ["p"] * (len(lines) - 1)
  texts = []
  for i, (tag, line) in enumerate(zip(tags, lines)):
    match = re.fullmatch(rf"<{tag}>([^<>]+)</{tag}>", line)
    if match is None:
      raise ValueError(
        f"{path}:{i + 1}: got {line[:60]!r}, need <{tag}>text</{tag}> on one"
        " line (a title first, then paragraphs)"
      )
    texts.append(html.unescape(match[1]).strip())
  if len(texts) < 2:
    raise ValueError(f"{path}: no paragraph; add <p> lines after the <h1>")
  return Page(texts[0], tuple((text,) for text in texts[1:]), " ")


def check_lengths(page: Page, *, where: str):
  """Raises ValueError if a paragraph is under MIN_PARAGRAPH_CHARACTERS."""
  for i, sentences in enumerate(page.paragraphs):
    length = len(page.joiner.join(sentences))
    if length < MIN_PARAGRAPH_CHARACTERS:
      raise ValueError(
        f"{where}: paragraph {i + 1} has {length} characters, needs"
        f" {MIN_PARAGRAPH_CHARACTERS}; write more text"
      )


def read_site(folder: pathlib.Path) -> Site:
  """Reads `site.json`, `bulletin.json` and the articles of one language.

  Raises:
    ValueError: if a file or a key is missing or an article is too short.
  """
  for name in ("site.json", "bulletin.json"):
    if not (folder / name).exists():
      raise ValueError(f"{folder} is incomplete: add {name}")
  site = json.loads((folder / "site.json").read_text(encoding="utf-8"))
  bulletin = json.loads((folder / "bulletin.json").read_text(encoding="utf-8"))
  needed = {f.name for f in dataclasses.fields(Site)} - {"articles", "bulletin"}
  if set(site) != needed:
    raise ValueError(
      f"{folder}/site.json has keys {sorted(site)}, needs {sorted(needed)}"
    )
  if set(bulletin) != {"title", "joiner", "paragraphs", "slots"}:
    raise ValueError(
      f"{folder}/bulletin.json has keys {sorted(bulletin)}, needs title,"
      " joiner (what stands between sentences), paragraphs, slots"
    )
  if site["language"] != folder.name:
    raise ValueError(
      f"{folder}/site.json says language {site['language']!r}, needs the"
      f" folder's name {folder.name!r}"
    )
  paths = sorted(folder.glob("*.html"))
  if len(paths) != NUM_ARTICLES:
    raise ValueError(
      f"{folder} has {len(paths)} articles, needs {NUM_ARTICLES} .html files"
    )
  articles = {path.stem: read_fragment(path) for path in paths}
  for slug, page in articles.items():
    check_lengths(page, where=f"{folder}/{slug}.html")
  nav = tuple(site.pop("nav"))
  return Site(**site, nav=nav, articles=articles, bulletin=bulletin)


def read_sites(folder: pathlib.Path) -> dict[str, Site]:
  """Reads every language of `folder`, in order of code.

  Raises:
    ValueError: if a language is incomplete, or two share a host.
  """
  sites = {p.name: read_site(p) for p in sorted(folder.iterdir()) if p.is_dir()}
  hosts = {}
  for code, site in sites.items():
    if site.host in hosts:
      raise ValueError(
        f"{code} and {hosts[site.host]} share the host {site.host!r}; change"
        " it in one site.json"
      )
    hosts[site.host] = code
  return sites


def fill(template: str, *, slots: dict, rng: random.Random, where: str) -> str:
  """Replaces each {slot} by one of its values and {number} by 2 to 98.

  Raises:
    ValueError: if the template names a slot that the bulletin lacks.
  """

  def value(match: re.Match) -> str:
    if match[1] == "number":
      return str(rng.randint(2, 98))
    if match[1] not in slots:
      raise ValueError(
        f"{where}: {template!r} uses the slot {match[1]!r}; slots are number,"
        f" {', '.join(slots)}"
      )
    return rng.choice(slots[match[1]])

  return re.sub(r"\{(.*?)\}", value, template)


def bulletin_page(site: Site, *, seed: str) -> Page:
  """Expands the bulletin grammar of a site with choices drawn from `seed`."""
  rng = random.Random(f"{site.language} {seed}")
  grammar = site.bulletin
  where = f"bulletin of {site.language}"

  def expand(template: str) -> str:
    return fill(template, slots=grammar["slots"], rng=rng, where=where)

  page = Page(
    expand(grammar["title"]),
    tuple(tuple(map(expand, p)) for p in grammar["paragraphs"]),
    grammar["joiner"],
  )
  check_lengths(page, where=where)
  return page


def with_other_sentences(page: Page, *, other: Page, places) -> Page:
  """Takes the sentences at `places` (paragraph, sentence) from `other`.

  Raises:
    ValueError: if a sentence is the same in both; take another seed.
  """
  paragraphs = [list(p) for p in page.paragraphs]
  for i, j in places:
    if other.paragraphs[i][j] == paragraphs[i][j]:
      raise ValueError(f"sentence {j} of paragraph {i} would not change")
    paragraphs[i][j] = other.paragraphs[i][j]
  return dataclasses.replace(page, paragraphs=tuple(map(tuple, paragraphs)))


def document(
  site: Site, *, title: str, body: str, html_lang: str, meta_charset: str
) -> str:
  """Puts the chrome of a site around `body`, an HTML fragment, may be empty.

  The menu, the cookie notice, the list of other pages and the footer are what
  an extractor must remove. An empty `meta_charset` declares none.
  """
  escape = html.escape
  paths = ["/"] + [f"/menu/{i}" for i in range(1, len(site.nav))]
  items = [
    f'<li><a href="{p}">{escape(n)}</a></li>' for p, n in zip(paths, site.nav)
  ]
  others = [
    f'<li><a href="/articles/{slug}">{escape(page.title)}</a></li>'
    for slug, page in site.articles.items()
  ]
  meta = [f'<meta charset="{meta_charset}">'] if meta_charset else []
  return "\n".join(
    ["<!DOCTYPE html>", f'<html lang="{html_lang}">', "<head>"]
    + meta
    + [
      f"<title>{escape(title)} | {escape(site.site_name)}</title>",
      "<style>nav li { display: inline; } main { max-width: 60em; }</style>",
      "</head>",
      "<body>",
      f'<header><a href="/">{escape(site.site_name)}</a></header>',
      '<nav class="menu"><ul>',
      *items,
      "</ul></nav>",
      f'<div class="cookie-notice">{escape(site.cookie_notice)}</div>',
      f"<main><article>\n{body}\n</article></main>",
      '<aside class="related"><ul>',
      *others,
      "</ul></aside>",
      f"<footer><p>{escape(site.footer)}</p></footer>",
      '<script>document.body.dataset.ready = "1";</script>',
      "</body>",
      "</html>",
      "",
    ]
  )


def http_message(status: str, headers: dict[str, str], body: bytes) -> bytes:
  """An HTTP/1.1 response as bytes; Content-Length is that of `body`."""
  lines = [f"HTTP/1.1 {status}", "Server: village"]
  lines += [f"{name}: {value}" for name, value in headers.items()]
  lines += [f"Content-Length: {len(body)}", "", ""]
  return "\r\n".join(lines).encode("ascii") + body


def html_message(text: str, *, charset: str, in_header: bool) -> bytes:
  """A 200 response; characters that `charset` lacks become references."""
  body = text.encode(CODECS.get(charset, charset), "xmlcharrefreplace")
  content_type = f"text/html; charset={charset}" if in_header else "text/html"
  return http_message("200 OK", {"Content-Type": content_type}, body)


def page_message(site: Site, page: Page, *, html_lang: str | None = None):
  """The usual response: UTF-8, declared in the HTTP header and in meta."""
  text = document(
    site,
    title=page.title,
    body=page.body(),
    html_lang=html_lang or site.html_lang,
    meta_charset="utf-8",
  )
  return html_message(text, charset="utf-8", in_header=True)


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


def record(
  kind: str, *, url: str, date: str, content_type: str, block: bytes
) -> bytes:
  """One WARC 1.0 record; its id is a function of kind, URL and date."""
  identity = uuid.uuid5(uuid.NAMESPACE_URL, f"{kind} {url} {date}")
  digest = base64.b32encode(hashlib.sha1(block).digest()).decode()
  target = [f"WARC-Target-URI: {url}"] if url else []
  lines = [
    "WARC/1.0",
    f"WARC-Type: {kind}",
    f"WARC-Record-ID: <urn:uuid:{identity}>",
    f"WARC-Date: {date}",
    *target,
    f"WARC-Block-Digest: sha1:{digest}",
    f"Content-Type: {content_type}",
    f"Content-Length: {len(block)}",
    "",
    "",
  ]
  return "\r\n".join(lines).encode("utf-8") + block + b"\r\n\r\n"


def member(data: bytes) -> bytes:
  """A gzip member with `data`, without a file name or a time."""
  return zlib.compress(data, 9, wbits=31)


def cut_member(data: bytes) -> bytes:
  """The first half of `data`, and then the file ends inside the member.

  Flushed at the cut, so that it decompresses to the same bytes with any zlib.
  """
  compressor = zlib.compressobj(9, wbits=31)
  half = compressor.compress(data[: len(data) // 2])
  return half + compressor.flush(zlib.Z_SYNC_FLUSH)


def warc_records(captures: list[Capture]) -> list[bytes]:
  """A warcinfo record, then a request and a response for each capture."""
  info = "software: tests/testdata/crawl/build.py\r\nformat: WARC File Format 1.0\r\n"
  records = [
    record(
      "warcinfo",
      url="",
      date=f"{FIRST_CAPTURE.isoformat()}Z",
      content_type="application/warc-fields",
      block=info.encode("ascii"),
    )
  ]
  for i, capture in enumerate(captures):
    moment = FIRST_CAPTURE + datetime.timedelta(
      days=-capture.age_days, seconds=SECONDS_BETWEEN_CAPTURES * (i + 1)
    )
    date = f"{moment.isoformat()}Z"
    host, path = re.fullmatch(r"https?://([^/]+)(/.*)", capture.url).groups()
    request = (
      f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: sample\r\n\r\n"
    )
    for kind, block in (
      ("request", request.encode("ascii")),
      ("response", capture.http),
    ):
      records.append(
        record(
          kind,
          url=capture.url,
          date=date,
          content_type=f"application/http; msgtype={kind}",
          block=block,
        )
      )
  return records


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


def build(output: pathlib.Path):
  """Writes the WARC to `output` and the truth table beside it.

  Raises:
    ValueError: if `output` does not end in .warc.gz, or a source is wrong.
  """
  if not output.name.endswith(".warc.gz"):
    raise ValueError(f"--output is {str(output)!r}, must end in .warc.gz")
  captures = all_captures(read_sites(FOLDER / "sources"))
  records = warc_records(captures)
  members = [member(r) for r in records[:-1]] + [cut_member(records[-1])]
  rows = [[getattr(c, name) for name in TRUTH_COLUMNS] for c in captures]
  table = "".join("\t".join(r) + "\n" for r in [list(TRUTH_COLUMNS)] + rows)
  output.write_bytes(b"".join(members))
  truth = output.with_name(output.name.removesuffix(".warc.gz") + ".tsv")
  truth.write_text(table, encoding="utf-8")


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    "--output",
    type=pathlib.Path,
    required=True,
    help="WARC file to write, ending in .warc.gz; the truth table goes beside",
  )
  build(parser.parse_args().output)


if __name__ == "__main__":
  main()
