import pytest

from beam_pipelines import extract, read


def page(body, charset="utf-8"):
  return read.Record("0", "http://x.example/", "t", body, charset, False, "")


# Text, charset as it is spelt in the wild, Python's codec.
LEGACY = [
  ("Крестьяне починили старый мост до начала дождей.", "koi8-r", "koi8-r"),
  ("Селяни полагодили старий міст.", "Windows-1251", "cp1251"),
  ("農民たちは雨が降る前に古い橋を修理しました。", "x-sjis", "shift_jis"),
  ("農民們在下雨之前修好了舊橋。", "big5", "big5"),
  ("农民们在下雨之前修好了旧桥。", "gb2312", "gb18030"),
  ("농부들은 비가 오기 전에 다리를 고쳤습니다.", "ks_c_5601-1987", "euc-kr"),
  ("Οι αγρότες επισκεύασαν τη γέφυρα.", "iso-8859-7", "iso8859-7"),
  ("أصلح المزارعون الجسر القديم.", "windows-1256", "cp1256"),
  ("האיכרים תיקנו את הגשר הישן.", "iso-8859-8-i", "iso8859-8"),
  ("ชาวนาซ่อมสะพานเก่าก่อนฝนตก", "tis-620", "cp874"),
  ("Çiftçiler eski köprüyü onardı.", "iso-8859-9", "iso8859-9"),
]


@pytest.mark.parametrize("text, label, codec", LEGACY)
def test_legacy_charsets_of_header_and_meta(text, label, codec):
  html = f"<html><body><main><p>{text}</p></main></body></html>"
  assert extract.extract_text(page(html.encode(codec), label)) == text
  html = html.replace("<body>", f'<meta charset="{label}"><body>')
  for header in ("", "no-such-charset"):
    assert extract.extract_text(page(html.encode(codec), header)) == text


def test_charset_is_detected_where_nothing_tells_it(crawl):
  for code, codec in (("rus_Cyrl", "koi8-r"), ("jpn_Jpan", "euc-jp")):
    text = crawl.SENTENCES[code] * 5
    html = f"<p>{text}</p>"
    assert extract.extract_text(page(html.encode(codec), "")) == text


def test_a_byte_order_mark_wins_over_the_header():
  for codec in ("utf-8-sig", "utf-16"):
    html = "<p>Ünïcödé мир</p>".encode(codec)
    assert extract.extract_text(page(html, "iso-8859-1")) == "Ünïcödé мир"


def test_a_bad_byte_costs_one_character_not_the_page(crawl):
  html = f"<p>{crawl.SENTENCES['rus_Cyrl']}</p>".encode().replace(
    "мост".encode(), b"\xd0 "
  )
  expected = crawl.SENTENCES["rus_Cyrl"].replace("мост", "\ufffd ")
  assert extract.extract_text(page(html)) == " ".join(expected.split())


def test_a_paragraph_is_a_line():
  """mC4 counts lines: paragraphs must not be cut or joined."""
  html = """<html><body><div><div><main><h1>पुल</h1>
    <p>First line of the source,
    second <b>line</b> of it.</p><p>หนึ่ง<br>สอง</p>
    <ul><li>один</li><li>два</li></ul>
    <p>三
    四</p>
    <pre>a b
c</pre></main></div></div></body></html>"""
  assert extract.extract_text(page(html.encode())).split("\n") == [
    "पुल",
    "First line of the source, second line of it.",
    "หนึ่ง",
    "สอง",
    "один",
    "два",
    "三 四",
    "a b",
    "c",
  ]


def test_navigation_scripts_and_footers_are_left_out(crawl):
  lines = crawl.paragraphs("ell_Grek", 1)
  html = crawl.html_page(lines).replace(
    "<main>",
    "<nav><ul><li><a href=/>Αρχική</a></li></ul></nav>"
    "<script>var x = 'script';</script><style>p {}</style><main>",
  )
  html = html.replace("</main>", "</main><footer>Cookies</footer>")
  assert extract.extract_text(page(html.encode())).split("\n") == lines


def test_text_records_are_taken_as_they_are():
  body = "  <b>一</b>\t行 \r\n\r\nдва\n".encode() + b"\xff"
  record = read.Record("0", "u", "t", body, "", True, "")
  assert extract.extract_text(record) == "<b>一</b> 行\nдва\n\ufffd"


def test_nothing_in_nothing_out():
  for body in (b"<html></html>", b"<script>x</script>", b"\x00", b"<p> </p>"):
    assert extract.extract_text(page(body)) in ("", "\ufffd")
