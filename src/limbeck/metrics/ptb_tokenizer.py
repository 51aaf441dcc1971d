"""Caption tokens as the COCO caption metrics see them, without Java.

CIDEr-D, BLEU and ROUGE-L numbers of captioning papers are computed on tokens in the style of the
Penn Treebank (Stanford's PTBTokenizer 3.4.1, lower-cased) from which punctuation was dropped. This
module gives the same tokens on captions and ordinary prose; odd addresses, faces and symbol soup
can differ. The quirks stay:

- brackets survive as the words `-lrb-`, `-rrb-` and so on, since they are looked for in upper case;
- so do runs such as `!!` and `?!`, and abbreviations keep their full stop (`st.`, `u.s.`);
- mixed numbers and tags with blanks hold a no-break space (`22 3/4` is one token here; code that
  splits on any white space sees two);
- characters that the original cannot read, emoji among them, vanish.

One thing differs on purpose: a caption is read alone. The original reads a whole file, so that a
caption ending in a single letter (`a sign that reads K.`) depends on the caption of the next line.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_NO_BREAK = "\N{NO-BREAK SPACE}"

# Abbreviations keep their full stop. The second group does so only when written with a capital,
# the third only before a digit.
_ABBREVIATIONS = """
    adj adm adv al ala alex apr ariz assn assoc assocs asst atty attys aug ave bancorp bhd bldg blvd
    brig bros calif capt cf cie cmdr co col colo comdr conn corp cos cpl ct dak dec del dept det dr
    drs ens esq est etc ext feb fla fri ft ga gen gov govs hon inc ind insp intl invt jan jos jr jul
    jun kan kans ky lt ltd maj md messrs mfg mich minn mlle mme mo mon mont mr mrs ms msgr mt mtg
    natl neb nev nov oct okla penn pfc ph plc ppte ppty pres prof profs pte pty pvt rd rep reps rev
    rt sen sens sep sept seq sfc sgt spc sq sr st ste supt supts sys tel tenn thu thurs treas tue
    tues univ va vs vt wed wis wisc wm wyo"""
_CAPITAL_ABBREVIATIONS = "ark az del ill la mass miss ore pa tex wash"
_NUMBER_ABBREVIATIONS = "art ca fig figs no nos op pp prop"

# After one of these the full stop of a single letter ends a sentence.
_SENTENCE_STARTS = """
    A About According Additionally After An As At But Earlier He Her Here However If In It Last Many
    More Now Once One Other Our She Since So Some Such That The Their Then There These They This We
    What When While Yet You"""

_SPLIT_AFTER = {"cannot": 3, "gonna": 3, "gotta": 3, "wanna": 3, "lemme": 3, "gimme": 3}
_SPLIT_AFTER.update({"more'n": 4, "'tis": 2, "'twas": 2})

_RENAMED = {
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-",
    "¢": "cents", "£": "#", "€": "$", "₠": "$", "¤": "$", "\x80": "$",
    "½": "1/2", "¼": "1/4", "¾": "3/4", "⅓": "1/3", "⅔": "2/3",
    "&amp;": "&", "&lt;": "<", "&gt;": ">",
}  # fmt: skip

# Symbols outside ASCII that stand as tokens of their own; other symbols vanish.
_SYMBOL = re.compile(
    "[\u00a1\u00a5-\u00a9\u00ac\u00ae-\u00b4\u00b6-\u00b9\u00bf\u00d7\u00f7\u037e\u0387\u0589\u05be"
    "\u05c0\u05c3\u05c6\u05f3-\u0603\u0606-\u060c\u0614\u061b\u061e-\u061f\u066a\u066d\u06d4\u0700-"
    "\u070d\u07f6-\u07f8\u0964-\u0965\u0e3f\u0e4f\u1fbd\u2016-\u2017\u201a\u201e-\u2023\u2030-"
    "\u2038\u203b\u203e-\u2042\u2044\u2070\u2074-\u207e\u2080-\u208e\u20a4\u2100-\u2101\u2103-\u2106"
    "\u2108-\u2109\u2114\u2116-\u2118\u211e-\u2123\u2125\u2127\u2129\u212e\u213a-\u213b\u2140-\u2144"
    "\u214a-\u214d\u214f\u2155-\u215e\u2190-\u24b5\u24d0-\u2bff\u3001-\u3002\u3012\u30fb\uff01-"
    "\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65\uffe0-\uffe1\uffe5-\uffe6]"
)
# Marks that belong to words, as letters do.
_MARK = re.compile(
    "[\u02c2-\u0375\u0384-\u0385\u03f6\u0483-\u0487\u055a-\u055f\u0591-\u05bd\u05bf\u05c1-\u05c2"
    "\u05c4-\u05c5\u05c7\u0615-\u061a\u064b-\u065e\u0670\u06d6-\u06dc\u06de-\u06fe\u0711-\u07f3"
    "\u0900-\u0903\u093c-\u094e\u0951-\u0955\u0962-\u0963\u0981-\u09e3\u0a01-\u0a4d\u0a81-\u0acd"
    "\u0b82-\u0bcd\u0c01-\u0c03\u0c3e-\u0c56\u0d3e-\u0d48\u0e31-\u0e3a\u0e47-\u0e4e\u0eb1-\u0ecd"
    "\u1885-\u1886]"
)
_GONE = "\x00"
_SHAPES = {
    **dict.fromkeys("\t\n\x0b\x0c\r\x85\u2028\u2029", " "),
    **dict.fromkeys("\u2019\u203a\x92", "\u2019"),
    **dict.fromkeys("\u2018\u201b\u2039\x91", "\u2018"),
    **dict.fromkeys("\u201c\u00ab\x93", "\u201c"),
    **dict.fromkeys("\u201d\u00bb\x94", "\u201d"),
    **dict.fromkeys("\u2013\u2014\u2015\x96\x97", "\u2014"),
    **dict.fromkeys("\u2010\u2011\u058a", "\u2010"),
    **dict.fromkeys("\u00bd\u00bc\u00be\u2153\u2154", "\u00bd"),
    **dict.fromkeys("\u00a2\u00a3\u20ac\u20a0\u00a4\x80", "$"),
    "\u2026": "\u2026",
    "\xad": "\xad",
}


class _ShapeTable(dict[int, str]):
    """For `str.translate`: every character to the ASCII-like one that stands for its class.

    Rules are then written for a small alphabet, and positions are those of the text.
    """

    def __missing__(self, code: int) -> str:
        character = chr(code)
        category = unicodedata.category(character)
        if character in _SHAPES:
            shape = _SHAPES[character]
        elif code < 0x80:
            shape = character if character.isprintable() else _GONE
        elif category == "Zs":
            shape = " "
        elif code > 0xFFFF:
            shape = _GONE
        elif category in ("Lu", "Lt"):
            shape = "É"
        elif category[0] == "L" or _MARK.match(character):
            shape = "é"
        elif category == "Nd":
            shape = "0"
        else:
            shape = "§" if _SYMBOL.match(character) else _GONE
        self[code] = shape
        return shape


_shape_table = _ShapeTable()


def _any_of(words: str) -> str:
    """A pattern for any of the words, the longest first so that none hides another."""
    return "|".join(sorted(words.split(), key=len, reverse=True))


_LETTER, _ALNUM, _HYPHEN = "[A-Za-zÉé\xad]", "[A-Za-z0-9Éé\xad]", "[-\u2010]"
_END = "(?![A-Za-z0-9Éé])"
_STARTS = " ".join(f"{word} {word.upper()}" for word in _SENTENCE_STARTS.split())
_CAPITALS = " ".join(f"{w.capitalize()} {w.upper()}" for w in _CAPITAL_ABBREVIATIONS.split())
_URL = r'[^ \x00"<>|(){}]{0,2000}[^ \x00"<>|(){}.,;:!?\'-]'
_WORD = rf"{_LETTER}{_ALNUM}*(?:[.!?]{_LETTER}{_ALNUM}*)*"
_MAIL = r'[^ \x00"<>|(){}.]{1,200}'
_SLASHED = rf"{_ALNUM}+(?:-{_LETTER}+){{0,2}}"
_APOSTROPHE = "['\u2019]"

# Where two rules fit, the earlier one wins; they are in the order that gives the longest token.
# `dropped` is white space and punctuation; `spaced` tokens may hold blanks; `single` is the rest.
_TOKEN = re.compile(
    rf"""
    (?P<dropped> [ \x00"`\u2018\u2014\u2026\u2010\xad]+ | --+ | ''+ | \.(?![0-9]) | [,:;](?=[ ]) )
  | (?P<quotes> [\u201c\u201d]+ )
  | (?P<spaced>
        </?[A-Za-z][\w:.-]{{0,99}}(?:[ ][^<>]{{0,999}})?/?> | <[!?][A-Za-z-][^>]{{0,999}}>  # tags
      | [0-9]{{1,4}}[ -][0-9]{{1,4}}/[0-9]{{1,4}}(?![0-9/]) | \u00bd  # 22 3/4, ½
      | (?:\+[0-9]{{2,3}}[ ])?(?:\([0-9]{{2,3}}\)[ ]?|[0-9]{{2,4}}[ -])
        [0-9]{{3,4}}[ -][0-9]{{3,5}}  # telephone
    )
  | (?P<split> (?i:cannot|gonna|gotta|wanna|lemme|gimme)(?![A-Za-z0-9Éé/-]|{_APOSTROPHE}[A-Za-zÉé])
      | (?i:more'n|'tis|'twas){_END} )
  | (?P<clitic> (?i:n{_APOSTROPHE}t | {_APOSTROPHE}(?:s|m|d|ll|re|ve))(?![A-Za-zÉé]) )
  | (?P<kept>
        https?://{_URL}
      | [A-Za-z0-9][^ "<>|(){{}}\x00@]{{0,99}}@(?:{_MAIL}\.){{0,9}}{_MAIL}
      | (?:[A-Za-z0-9][A-Za-z0-9-]{{0,99}}\.){{1,9}}(?:com|net|org|edu)(?:/{_URL})?{_END}
      | \#[A-Za-z]+ | @[A-Za-z_]\w*  # #this @that
      | {_LETTER}+?(?<![nN])(?=(?i:n{_APOSTROPHE}t){_END})  # do|n't
      | {_APOSTROPHE}(?i:em|till?|cause|n{_APOSTROPHE})  # 'em
      | {_APOSTROPHE}(?i:n|[2-9]0s){_END}  # '80s
      | '[0-9]{{2}}(?=[ ]|\Z)
      | (?:[A-HJ-XZnold]){_APOSTROPHE}{_LETTER}{{2,}}  # o'clock
      | (?i:ol|d|l|j|y(?={_APOSTROPHE}[A-Za-z])){_APOSTROPHE}  # ol' y'|all
      | {_LETTER}+[aeiouyAEIOUY]{_APOSTROPHE}[aeiouA-Z]{_LETTER}*
      | {_SLASHED}(?:/{_SLASHED}){{1,2}}  # and/or
      | [A-Za-z0-9][A-Za-z0-9-]*(?:_[A-Za-z0-9-]+)+  # file_name
      | {_ALNUM}[A-Za-z0-9Éé\xad.,]{{0,200}}(?:{_HYPHEN}{_ALNUM}+)+(?:\.(?=[,;:]))?  # t-shirt
      | (?:(?:[A-Za-zÉé]\.){{2,}} | (?i:ph\.d)\. | (?:(?i:{_any_of(_ABBREVIATIONS)})
          |{_any_of(_CAPITALS)})\.  | (?i:{_any_of(_NUMBER_ABBREVIATIONS)})\.(?=[ ]*[0-9]) )
        (?!{_LETTER})
      | [A-Za-zÉé]\.(?!{_LETTER})(?![ ]+(?:{_any_of(_STARTS)}){_END})  # a single letter
      | [A-Z]+(?:[&+][A-Z]+)+ | [A-Z]+\$ | [A-Za-z]\+\+ | [CcFf]\#  # R&B US$ C++ C#
      | {_WORD}(?:\.(?=[,;:]))?  # a full stop stays before , ; :
      | [+-]?(?:[0-9]+(?:[.,:][0-9]+)+ | (?:[.,:][0-9]+)+)  # 12:43 1,000
      | (?:[+-][0-9]+ | {_ALNUM}+)(?:\.(?=[,;:]))?
      | [?!]{{2,}} | \*{{2,}} | _{{2,}} | \#{{2,}} | @{{2,}} | << | >>
      | [<>]?[:;=]['o*-]?[()DPdp\\{{@|\[\]]{_END} | \^_+\^  # faces
    )
  | (?P<single> &(?:amp|lt|gt);|&(?:quot|apos|nbsp|mdash);|.)
""",
    re.VERBOSE | re.DOTALL,
)
_DROPPED_SINGLES = frozenset("'\u2019.,:;?!-") | {"&quot;", "&apos;", "&nbsp;", "&mdash;"}

_WRITTEN_OUT = frozenset("()½¼¾⅓⅔")


def tokenize(text: str) -> tuple[str, ...]:
    """Lower-case tokens of one caption, without punctuation; time is linear in its length."""
    return _remembered(text) if len(text) <= _REMEMBERED_CHARACTERS else _tokenize(text)


def words(text: str) -> tuple[str, ...]:
    """The tokens split again at no-break spaces, as the reference BLEU and CIDEr-D do."""
    return tuple(" ".join(tokenize(text)).split())


def _tokenize(text: str) -> tuple[str, ...]:
    tokens: list[str] = []
    for match in _TOKEN.finditer(text.translate(_shape_table)):
        kind, shape = match.lastgroup, match.group()
        if kind == "dropped" or (kind == "single" and shape in _DROPPED_SINGLES):
            continue
        token = text[match.start() : match.end()].replace("\xad", "")
        if kind == "kept":
            tokens.append(token.lower() if token.isalpha() else _written_out(token))
        elif kind == "clitic":
            tokens.append(shape.replace("\u2019", "'").lower())
        elif kind == "split":
            cut = _SPLIT_AFTER[shape.lower()]
            tokens += [shape[:cut].lower(), shape[cut:].lower()]
        elif kind == "spaced":
            tokens.append(_written_out(token).replace(" ", _NO_BREAK))
        elif kind == "quotes":
            if len(shape) > 1:  # one alone is punctuation, a run is not recognised as such
                tokens.append(shape.replace("\u201c", "``").replace("\u201d", "''"))
        else:
            tokens.append(_RENAMED.get(token, token).lower())
    return tuple(tokens)


# Several metrics and models read the same references.
_remembered = lru_cache(maxsize=1 << 16)(_tokenize)
_REMEMBERED_CHARACTERS = 1000


def _written_out(token: str) -> str:
    """The token in lower case, round brackets and fractions in it written in ASCII."""
    return "".join(_RENAMED[c] if c in _WRITTEN_OUT else c for c in token).lower()
