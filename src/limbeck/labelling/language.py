"""Whether an answer is in the language that was asked for, as far as small means can tell.

Two tests. Most letters must be in the language's script; for Japanese, Chinese and Korean that
nearly decides it. Among languages in Latin script frequent small words are counted: an answer is
of another language when it has at least three of that one's, and more than twice as many as of
its own. So a few words, names and numbers pass as any language in their script, and a language
that is not in `FREQUENT` (Danish, say) passes as any other in Latin script.
"""

from __future__ import annotations

import regex

from limbeck.recipe.labelling import Language

SCRIPTS: dict[str, str] = {
    "ar": r"\p{Script=Arabic}",
    "el": r"\p{Script=Greek}",
    "he": r"\p{Script=Hebrew}",
    "hi": r"\p{Script=Devanagari}",
    "ja": r"[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}]",
    "ko": r"[\p{Script=Hangul}\p{Script=Han}]",
    "ru": r"\p{Script=Cyrillic}",
    "th": r"\p{Script=Thai}",
    "zh": r"\p{Script=Han}",
}
"""Languages that are not in Latin script."""

FREQUENT: dict[str, frozenset[str]] = {
    language: frozenset(words.split())
    for language, words in {
        "de": "der die das den dem des ein eine einen einem einer und oder ist sind war nicht mit "
        "von für auf auch im zum zur als wird werden bei nach über sich ich sie wir es aus dass",
        "en": "the a an and or of to in is are was were with for on at by from this that it its "
        "as be has have there which not you your their he she they can",
        "es": "el la los las un una unos unas y o de del en es son con para por que se su sus al "
        "como más pero no está hay muy lo le este esta",
        "fr": "le la les un une des du de et ou est sont dans avec pour par sur que qui ne pas au "
        "aux ce cette ces il elle se son sa ses plus en l'on d'un d'une",
        "it": "il lo la gli le un uno una e o di del della dei delle in è sono con per su che non "
        "si al alla dal nel nella come più anche questo questa",
        "nl": "de het een en of van in is zijn was met voor op aan bij door niet dat die dit deze "
        "er ook naar als om te uit hij zij wordt",
        "pt": "o a os as um uma uns umas e ou de do da dos das em no na nos nas é são com para por "
        "que se não ao à como mais seu sua este esta",
    }.items()
}
"""Small words by which a language in Latin script is known; some belong to several."""

MIN_SHARE_OF_SCRIPT = 0.5
MIN_FOREIGN_WORDS = 3
MIN_LETTERS_WITHOUT_KANA = 12
"""Japanese of so many letters has kana among them."""
MAX_SHARE_OF_KANA = 0.1
"""Above it a text in Chinese characters is Japanese."""

_LETTERS = regex.compile(r"\p{L}")
_KANA = regex.compile(r"[\p{Script=Hiragana}\p{Script=Katakana}]")
_HANGUL = regex.compile(r"\p{Script=Hangul}")
_WORDS = regex.compile(r"[\p{L}\p{M}'’]+")


def is_in_language(text: str, language: Language) -> bool:
    """False where the text is certainly not in the language; see the head of this file."""
    letters = len(_LETTERS.findall(text))
    if not letters:
        return True
    script = SCRIPTS.get(language, r"\p{Script=Latin}")
    if len(regex.findall(rf"(?:(?=\p{{L}}){script})", text)) < MIN_SHARE_OF_SCRIPT * letters:
        return False
    kana = len(_KANA.findall(text))
    if language == "zh":
        return kana <= MAX_SHARE_OF_KANA * letters
    if language == "ja":
        return kana > 0 or letters < MIN_LETTERS_WITHOUT_KANA
    if language == "ko":
        return bool(_HANGUL.search(text))
    return language not in FREQUENT or not _is_of_another(text, language)


def _is_of_another(text: str, language: str) -> bool:
    words = [word.replace("’", "'") for word in _WORDS.findall(text.casefold())]
    counts = {name: sum(word in own for word in words) for name, own in FREQUENT.items()}
    own = counts.pop(language)
    most = max(counts.values())
    return most >= MIN_FOREIGN_WORDS and most > 2 * own
