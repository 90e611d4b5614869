"""Named sets of languages, as tuples of canonical codes in table order."""

from mlm.languages import registry

# The 101 languages of mC4: its 107 configs without the six that hold a second,
# Latin, script of a language already counted. Source: Xue et al. 2021 (mT5).
MC4 = tuple(
  language.code
  for language in registry.languages()
  if language.mc4 and not language.mc4.endswith("-Latn")
)

# The six configs of mC4 for romanised text.
MC4_LATIN = tuple(
  language.code
  for language in registry.languages()
  if language.mc4.endswith("-Latn")
)

# The languages of Aya-101 that the table has: 98 of its 101.
# Source: model card of Aya-101; Üstün et al. 2024.
AYA_101 = tuple(
  language.code for language in registry.languages() if language.aya101
)

# ISO 639-3 codes of the other three of Aya-101: Northern Sotho, Odia, Twi. mC4
# and cld3 lack them, so they have no canonical code here.
AYA_101_ABSENT = ("nso", "ory", "twi")

# The 23 languages of Aya 23. Source: Dang et al. 2024.
AYA_23 = (
  "arb_Arab",
  "ces_Latn",
  "deu_Latn",
  "ell_Grek",
  "eng_Latn",
  "spa_Latn",
  "pes_Arab",
  "fra_Latn",
  "hin_Deva",
  "ind_Latn",
  "ita_Latn",
  "heb_Hebr",
  "jpn_Jpan",
  "kor_Hang",
  "nld_Latn",
  "pol_Latn",
  "por_Latn",
  "ron_Latn",
  "rus_Cyrl",
  "tur_Latn",
  "ukr_Cyrl",
  "vie_Latn",
  "zho_Hani",
)

# The five-language preference mixture of Dang et al. 2024.
ML_5 = ("deu_Latn", "eng_Latn", "por_Latn", "tur_Latn", "vie_Latn")

# Our hundred: the languages of mC4 that can be checked against a second public
# text, parallel (FLORES-200) or crawled (FineWeb-2). That is all but Hmong,
# which is a macrolanguage without a single standard in either.
HUNDRED = tuple(
  code
  for code in MC4
  if registry.get(code).flores200 or registry.get(code).fineweb2
)
