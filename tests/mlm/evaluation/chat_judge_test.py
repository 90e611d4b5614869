"""The chat judge against a server of ours that misbehaves."""

import collections
import contextlib
import http.server
import json
import pathlib
import re
import threading

import pytest

from mlm.evaluation import chat_judge, judge

PROMPTS = {
  "eng_Latn": ("Name a fruit.", "An apple.", "A stone."),
  "rus_Cyrl": ("Назови фрукт.", "Яблоко.", "Камень."),
  "arb_Arab": ("اذكر فاكهة.", "تفاحة.", "حجر."),
  "hin_Deva": ("एक फल बताओ।", "सेब।", "पत्थर।"),
  "tha_Thai": ("บอกชื่อผลไม้", "แอปเปิล", "หิน"),
  "ell_Grek": ("Πες ένα φρούτο.", "Μήλο.", "Πέτρα."),
}
COMPARISONS = [
  judge.Comparison(
    code, code, prompt, judge.Answer(good, True), judge.Answer(bad, True)
  )
  for code, (prompt, good, bad) in PROMPTS.items()
]


def _says(text):
  message = {"role": "assistant", "content": text}
  return json.dumps({"choices": [{"message": message}]}).encode()


def _prefers_the_good(body):
  """A right judge's answer, by looking for our good answers."""
  user = body["messages"][1]["content"]
  first = re.search(r"<answer_A>\n(.*)\n</answer_A>", user)[1]
  is_good = first in {good for _, good, _ in PROMPTS.values()}
  return _says(f"One names a fruit.\n\n {'A' if is_good else 'B'} \n")


class _Server(http.server.ThreadingHTTPServer):
  """Answers rightly after the faults planned for a question are used up."""

  daemon_threads = True

  def __init__(self, faults=(), answer=_prefers_the_good):
    super().__init__(("127.0.0.1", 0), _Handler)
    self.faults = collections.defaultdict(lambda: collections.deque(faults))
    self.answer = answer
    self.asked = collections.Counter()
    self.headers_seen = []
    self.lock = threading.Lock()
    self.let_go = threading.Event()


class _Handler(http.server.BaseHTTPRequestHandler):
  def do_POST(self):
    data = self.rfile.read(int(self.headers["Content-Length"]))
    body, server = json.loads(data), self.server
    with server.lock:
      server.asked[data] += 1
      server.headers_seen.append((self.path, dict(self.headers)))
      faults = server.faults[data]
      fault = faults.popleft() if faults else None
    if fault == "slow":
      server.let_go.wait(10)
    if fault == "hang up":
      self.close_connection = True
      return
    status, reply = 200, server.answer(body)
    if isinstance(fault, int):
      status, reply = fault, b'{"error": "planned"}'
    elif isinstance(fault, bytes):
      reply = fault
    with contextlib.suppress(OSError):
      self.send_response(status)
      self.send_header("Content-Length", str(len(reply)))
      if status == 429:
        self.send_header("Retry-After", "0")
      self.end_headers()
      self.wfile.write(reply)

  def log_message(self, *arguments):
    pass


@pytest.fixture
def serve(monkeypatch):
  monkeypatch.setenv("NO_PROXY", "127.0.0.1")
  monkeypatch.setenv("no_proxy", "127.0.0.1")
  monkeypatch.setenv("JUDGE_KEY", "secret")
  started = []

  def start(*arguments, **keywords):
    server = _Server(*arguments, **keywords)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    started.append(server)
    return server

  yield start
  for server in started:
    server.let_go.set()
    server.shutdown()
    server.server_close()


def _judge(server, folder, **changes):
  endpoint = chat_judge.Endpoint(
    base_url=f"http://127.0.0.1:{server.server_port}/v1/",
    model="some-model",
    api_key_variable="JUDGE_KEY",
    timeout_seconds=30.0,
    num_tries=4,
    retry_seconds=0.01,
    max_tokens=64,
  )
  return chat_judge.chat(
    endpoint._replace(**changes),
    answers=str(folder / "answers.jsonl"),
    concurrency=3,
  )


RIGHT = [(judge.A, judge.B)] * len(COMPARISONS)


def test_a_right_model_gives_the_same_verdict_in_both_orders(serve, tmp_path):
  server = serve()
  told = judge.in_both_orders(_judge(server, tmp_path), COMPARISONS)
  assert told == RIGHT
  assert {judge.outcome(*pair) for pair in told} == {judge.A}
  path, headers = server.headers_seen[0]
  assert path == "/v1/chat/completions"
  assert headers["Authorization"] == "Bearer secret"
  body = json.loads(next(iter(server.asked)))
  assert (body["model"], body["temperature"]) == ("some-model", 0)
  assert "secret" not in (tmp_path / "answers.jsonl").read_text()


@pytest.mark.parametrize(
  "fault",
  [500, 503, 429, 408, b"<html>busy</html>", b'{"choices": []}', b"\xff"]
  + [b'{"choices": [{"message": {"content": null}}]}', b"[]", "hang up"],
  ids=str,
)
def test_faults_that_pass_are_tried_again(serve, tmp_path, fault):
  server = serve([fault, fault])
  assert judge.in_both_orders(_judge(server, tmp_path), COMPARISONS) == RIGHT
  assert set(server.asked.values()) == {3}


def test_a_server_that_does_not_answer_in_time_is_asked_again(serve, tmp_path):
  server = serve(["slow"])
  judged = _judge(server, tmp_path, timeout_seconds=0.5)(COMPARISONS[:1])
  assert judged == [judge.A]
  assert set(server.asked.values()) == {2}


def test_tries_are_bounded_and_what_came_is_kept(serve, tmp_path):
  """One question fails for ever; the others' answers are not asked again."""
  server = serve()
  doomed = "Камень."

  def answer(body):
    user = body["messages"][1]["content"]
    return b"garbage" if doomed in user else _prefers_the_good(body)

  server.answer = answer
  with pytest.raises(ConnectionError, match="no answer in 4 tries"):
    _judge(server, tmp_path)(COMPARISONS)
  assert max(server.asked.values()) == 4
  kept = len(chat_judge.read_answers(str(tmp_path / "answers.jsonl")))
  before = sum(server.asked.values())
  server.answer = _prefers_the_good
  assert _judge(server, tmp_path)(COMPARISONS) == [judge.A] * 6
  assert sum(server.asked.values()) - before == len(COMPARISONS) - kept


def test_a_killed_job_asks_nothing_twice(serve, tmp_path):
  """The file of a job that died in the middle of its fourth line."""
  server = serve()
  _judge(server, tmp_path)(COMPARISONS)
  path = tmp_path / "answers.jsonl"
  lines = path.read_bytes().splitlines(keepends=True)
  path.write_bytes(b"".join(lines[:3]) + lines[3][:40])
  assert _judge(server, tmp_path)(COMPARISONS) == [judge.A] * 6
  again = 6 - 3
  assert sum(server.asked.values()) == 6 + again
  assert len(chat_judge.read_answers(str(path))) == 6
  _judge(server, tmp_path)(COMPARISONS)
  assert sum(server.asked.values()) == 6 + again


def test_equal_questions_are_asked_once_and_other_settings_again(
  serve, tmp_path
):
  server = serve()
  one = COMPARISONS[0]
  assert _judge(server, tmp_path)([one, one._replace(id="again")]) == [
    judge.A,
    judge.A,
  ]
  assert sum(server.asked.values()) == 1
  _judge(server, tmp_path, model="another")([one])
  assert sum(server.asked.values()) == 2


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_refusal_is_not_tried_again(serve, tmp_path, status):
  server = serve([status] * 9)
  with pytest.raises(ValueError, match=f"status {status}.*planned"):
    _judge(server, tmp_path)(COMPARISONS[:1])
  assert sum(server.asked.values()) == 1


def test_nobody_there_is_an_error(serve, tmp_path):
  server = serve()
  server.shutdown()
  server.server_close()
  with pytest.raises(ConnectionError, match="run the job again"):
    _judge(server, tmp_path)(COMPARISONS[:1])


def test_unparsable_answers_are_no_verdict_and_counted(serve, tmp_path):
  server = serve(answer=lambda body: _says("I would rather not say: A or B?"))
  told = judge.in_both_orders(_judge(server, tmp_path), COMPARISONS)
  assert {judge.outcome(*pair) for pair in told} == {judge.NO_VERDICT}


@pytest.mark.parametrize(
  "text, verdict",
  [
    ("A", "A"),
    ("The second is wrong.\nA", "A"),
    ("Both fail.\n\n  TIE  \n\n", "TIE"),
    ("B\n", "B"),
    ("", "NO_VERDICT"),
    ("A.", "NO_VERDICT"),
    ("a", "NO_VERDICT"),
    ("Preferred: A", "NO_VERDICT"),
    ("A\nbecause it is right", "NO_VERDICT"),
    ("A or B", "NO_VERDICT"),
    ("А", "NO_VERDICT"),  # the Cyrillic letter
    ("tie", "NO_VERDICT"),
  ],
)
def test_only_a_last_line_of_a_b_or_tie_is_a_verdict(text, verdict):
  assert chat_judge.parse(text) == verdict


@pytest.mark.parametrize(
  "code, name", [("swh_Latn", "Swahili"), ("amh_Ethi", "Amharic")]
)
def test_the_language_is_named_and_braces_in_answers_stay(code, name):
  comparison = judge.Comparison(
    "1",
    code,
    "{language} {a}?",
    judge.Answer("{b}", True),
    judge.Answer("%s {prompt}", False),
  )
  system, user = chat_judge.messages(comparison)
  assert name in system["content"] and name in user["content"]
  assert "<answer_A>\n{b}\n</answer_A>" in user["content"]
  assert "<answer_B>\n%s {prompt}\n</answer_B>" in user["content"]
  assert "{language} {a}?" in user["content"]


def test_a_missing_key_and_a_wrong_address_are_told_before_any_request(
  serve, tmp_path, monkeypatch
):
  server = serve()
  monkeypatch.delenv("JUDGE_KEY")
  with pytest.raises(ValueError, match="JUDGE_KEY is not set"):
    _judge(server, tmp_path)
  with pytest.raises(ValueError, match="must begin with http"):
    _judge(server, tmp_path, base_url="file:///etc", api_key_variable="")
  assert _judge(server, tmp_path, api_key_variable="")(COMPARISONS[:1]) == ["A"]
  assert not any("Authorization" in h for _, h in server.headers_seen)


def test_a_file_of_something_else_is_refused(serve, tmp_path):
  path = pathlib.Path(tmp_path / "answers.jsonl")
  path.write_text('{"key": "x", "answer": "A"}\nnot json\n')
  with pytest.raises(ValueError, match="line 2 is no answer"):
    _judge(serve(), tmp_path)(COMPARISONS[:1])


def test_a_conversation_is_shown_with_its_speakers():
  prompt = ("Назови фрукт.", "Яблоко.", "Ещё один.")
  _, user = chat_judge.messages(COMPARISONS[1]._replace(prompt=prompt))
  assert (
    "<instruction>\nUser: Назови фрукт.\n\nAssistant: Яблоко.\n\n"
    "User: Ещё один.\n</instruction>"
  ) in user["content"]
