"""Sources of the sample crawl and the HTML pages that are made of them."""

import dataclasses
import html
import json
import pathlib
import random
import re

MIN_PARAGRAPH_CHARACTERS = 220  # mC4 wants three lines of 200
NUM_ARTICLES = 3
# Python's name where it differs from the one that pages declare.
CODECS = {"windows-874": "cp874"}


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
  """One language: the chrome around its pages, articles, bulletins."""

  language: str
  html_lang: str
  host: str
  site_name: str
  nav: tuple[str, ...]
  cookie_notice: str
  footer: str
  articles: dict[str, Page]
  grammar: dict


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
  grammar = json.loads((folder / "bulletin.json").read_text(encoding="utf-8"))
  needed = {f.name for f in dataclasses.fields(Site)} - {"articles", "grammar"}
  if set(site) != needed:
    raise ValueError(
      f"{folder}/site.json has keys {sorted(site)}, needs {sorted(needed)}"
    )
  if set(grammar) != {"title", "joiner", "paragraphs", "slots"}:
    raise ValueError(
      f"{folder}/bulletin.json has keys {sorted(grammar)}, needs title,"
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
  return Site(**site, nav=nav, articles=articles, grammar=grammar)


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


def bulletin(site: Site, *, seed: str) -> Page:
  """Expands the bulletin grammar of a site with choices drawn from `seed`."""
  rng = random.Random(f"{site.language} {seed}")
  grammar = site.grammar
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


def document(site: Site, *, title: str, body: str, meta_charset: str) -> str:
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
    ["<!DOCTYPE html>", f'<html lang="{site.html_lang}">', "<head>"]
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


def message(site: Site, page: Page) -> bytes:
  """The usual response: UTF-8, declared in the HTTP header and in meta."""
  text = document(
    site, title=page.title, body=page.body(), meta_charset="utf-8"
  )
  return html_message(text, charset="utf-8", in_header=True)
