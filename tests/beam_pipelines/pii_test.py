"""Masking: what goes, what stays, and that time stays linear."""

import pytest

from beam_pipelines import pii


@pytest.mark.parametrize(
  "text, masked",
  [
    ("Кому: ann.o'neil+x@mail.example.org.", "Кому: <|email|>."),
    ("邮箱：li@例子.中国，谢谢", "邮箱：<|email|>，谢谢"),
    ("البريد user@host.example؟", "البريد <|email|>؟"),
    ("a@b", "a@b"),
    ("@handle und x@@y.z", "@handle und x@@y.z"),
    (
      "server 8.8.8.8, and 2.2.2.2.",
      "server <|ip_address|>, and <|ip_address|>.",
    ),
    ("local 192.168.0.1, 127.0.0.1, 203.0.113.9", None),
    ("version 1.2.3.4.5 and 999.8.8.8", None),
    ("8.8.8.8e", "<|ip_address|>e"),
  ],
)
def test_addresses(text, masked):
  assert pii.mask(text)[0] == (masked or text)


def test_counts():
  assert pii.mask("a@b.cd e@f.gh 8.8.8.8 10.0.0.1")[1:] == (2, 1)


@pytest.mark.parametrize(
  "text",
  [
    "a" * 200_000 + "@",
    "a." * 100_000 + "@",
    "@" + "a." * 100_000,
    "1." * 200_000,
  ],
)
def test_long_runs_do_not_explode(text):
  assert pii.mask(text)[0] == text
