"""Small crawls made in the test: records, pages and texts in ten scripts."""

import gzip
import json
import types

import pytest

# Ours; two plain sentences each, so that cld3 is sure of the language.
SENTENCES = {
  "eng_Latn": "The farmers repaired the old bridge before the rain came. "
  "Everyone in the village was glad to cross the river again.",
  "fra_Latn": "Les paysans ont réparé le vieux pont avant la pluie. "
  "Tout le village était heureux de pouvoir traverser la rivière.",
  "swh_Latn": "Wakulima walitengeneza daraja la zamani kabla ya mvua kunyesha. "
  "Watu wote wa kijiji walifurahi kuvuka mto tena.",
  "rus_Cyrl": "Крестьяне починили старый мост до начала дождей. "
  "Все жители деревни были рады снова перейти реку.",
  "ell_Grek": "Οι αγρότες επισκεύασαν την παλιά γέφυρα πριν από τη βροχή. "
  "Όλοι στο χωριό χάρηκαν που πέρασαν ξανά το ποτάμι.",
  "arb_Arab": "أصلح المزارعون الجسر القديم قبل هطول المطر. "
  "وفرح كل أهل القرية بعبور النهر مرة أخرى.",
  "hin_Deva": "किसानों ने बारिश से पहले पुराने पुल की मरम्मत की। "
  "गाँव के सभी लोग फिर से नदी पार करके खुश हुए।",
  "jpn_Jpan": "農民たちは雨が降る前に古い橋を修理しました。"
  "村の人々はまた川を渡れるようになって喜びました。",
  "kor_Hang": "농부들은 비가 오기 전에 오래된 다리를 고쳤습니다. "
  "마을 사람들은 다시 강을 건널 수 있어서 기뻐했습니다.",
  "tha_Thai": "ชาวนาซ่อมสะพานเก่าก่อนฝนตก ทุกคนในหมู่บ้านดีใจที่ได้ข้ามแม่น้ำอีกครั้ง",
}


def paragraphs(code, page, count=3):
  """Lines of over 200 characters that no other (code, page) has."""
  lines = []
  for n in range(count):
    line = f"{page}.{n} "
    while len(line) < 220:
      line += SENTENCES[code] + " "
    lines.append(line.strip())
  return lines


def html_page(lines, charset=""):
  meta = f'<meta charset="{charset}">' if charset else ""
  body = "\n".join(f"<p>{line}</p>" for line in lines)
  return (
    f"<!doctype html><html><head>{meta}<title>t</title></head>"
    f"<body><main>{body}</main></body></html>"
  )


def record(kind, url, block, *, content_type="", date="2024-05-06T04:00:00Z"):
  """A WARC record as it stands in a file without compression."""
  headers = {
    "WARC-Type": kind,
    "WARC-Record-ID": "<urn:uuid:00000000-0000-4000-8000-000000000000>",
    "WARC-Target-URI": url,
    "WARC-Date": date,
    "Content-Type": content_type,
    "Content-Length": str(len(block)),
  }
  head = "".join(f"{k}: {v}\r\n" for k, v in headers.items() if v)
  return f"WARC/1.0\r\n{head}\r\n".encode() + block + b"\r\n\r\n"


def response(
  url,
  body,
  *,
  status="200 OK",
  content_type="text/html; charset=utf-8",
  extra="",
  **options,
):
  """A response record; body is str (sent as UTF-8) or bytes."""
  body = body.encode() if isinstance(body, str) else body
  typed = f"Content-Type: {content_type}\r\n" if content_type else ""
  http = f"HTTP/1.1 {status}\r\n{typed}{extra}\r\n".encode() + body
  return record(
    "response",
    url,
    http,
    content_type="application/http; msgtype=response",
    **options,
  )


def archive(records):
  """One gzip member a record, as crawlers write."""
  return b"".join(gzip.compress(r, mtime=0) for r in records)


@pytest.fixture
def crawl():
  """The builders above."""
  return types.SimpleNamespace(
    SENTENCES=SENTENCES,
    paragraphs=paragraphs,
    html_page=html_page,
    record=record,
    response=response,
    archive=archive,
  )


@pytest.fixture
def chunks(tmp_path):
  """JSON lines of chunks in three scripts, a few of them twice."""
  texts = {
    "swh_Latn": "wakulima walitengeneza daraja la zamani kabla ya mvua namba",
    "rus_Cyrl": "крестьяне починили старый мост до начала дождей и номер",
    "tha_Thai": "ชาวนา ซ่อม สะพาน เก่า ก่อน ฝน ตก แล้ว ทุก คน ดีใจ หมายเลข",
  }
  rows = [
    {"text": f"{text} {n} {n * 7}", "language": code, "corpus": "c"}
    for code, text in texts.items()
    for n in [*range(40), 3, 4]
  ]
  path = tmp_path / "chunks.jsonl"
  path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
  return path
