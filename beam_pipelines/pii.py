"""Masking of e-mail and public IPv4 addresses.

A placeholder, not an invented address: what was masked can be counted and
trained around. Phone, card and identity numbers are not covered.
Source: FineWeb2 masks the same two kinds (Penedo et al. 2025).
"""

import ipaddress
import re

EMAIL = "<|email|>"
IP_ADDRESS = "<|ip_address|>"

# Local part and domain as RFC 5322's dot-atoms, letters and digits of any
# script included; a domain has two labels. Bounded, so that time is linear.
_ATOM = r"[\w!#$%&'*+/=?^`{|}~-]{1,64}"
_LABEL = r"[^\W_](?:[\w-]{0,61}[^\W_])?"
_EMAIL = re.compile(
  rf"(?<![\w.!#$%&'*+/=?^`{{|}}~-]){_ATOM}(?:\.{_ATOM}){{0,8}}"
  rf"@{_LABEL}(?:\.{_LABEL}){{1,8}}(?!\w)"
)
_IP_ADDRESS = re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?![\d]|\.\d)")


def mask(text: str) -> tuple[str, int, int]:
  """The text with placeholders, e-mail addresses and IP addresses masked."""
  text, emails = _EMAIL.subn(EMAIL, text) if "@" in text else (text, 0)
  addresses = 0

  def placeholder(match):
    nonlocal addresses
    try:
      public = ipaddress.IPv4Address(match.group()).is_global
    except ValueError:
      return match.group()
    addresses += public
    return IP_ADDRESS if public else match.group()

  return _IP_ADDRESS.sub(placeholder, text), emails, addresses
