"""Secrets in settings: passwords, tokens and keys, which must not be written to any file of a run.

A value from an environment variable is written as a reference, `${oc.env:NAME}`, which is resolved again when the file
is read; a secret given in the settings themselves is written as `***`. A value is recognised as a secret by its key
(`api_key`), by its variable's name (`HF_TOKEN`), or by its form (`https://user:password@host`, `hf_...`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote

from hone.config.nested import Path, dotted, get, put

MASK = "***"
SHORTEST = 6
"""Minimum length of a secret that is masked in any text; a shorter one is masked in the settings only."""
FREE = ("rewards", "env", "logger")
"""Sections whose keys users choose: a variable there stays a reference, whatever its name."""

_WORDS = (
    r"api_?keys?|access_?keys?|secret_?keys?|private_?keys?|pass(word|wd|phrase)?|pwd?|secrets?|credentials?"
)
_TOKENS = r"(hf|hub|auth|access|api|bearer|session|refresh|secret|user|github|gitlab|wandb|id)_?token"
_KEY = re.compile(rf"(?:.*[_.-])?(?:{_WORDS}|{_TOKENS}|authorization|x-api-key)|token", re.IGNORECASE)
_VARIABLE = re.compile(
    r"(?:.*_)?(?:TOKEN|KEY|APIKEY|PW|PWD|PASS|PASSWD|PASSWORD|PASSPHRASE|SECRET|CREDENTIALS?|AUTH)(?:_.*|\d*)",
    re.IGNORECASE,
)
_NO_VARIABLE = ("PWD", "OLDPWD")
_REFERENCE = re.compile(r"\$\{\s*oc\.env\s*:\s*(\w+)|\$\{([A-Z][A-Z0-9_]*)\}")
_URL = re.compile(
    r"(?<=://)(?P<user>[^/\s:@'\"]*):(?P<password>(?!\\?\$\{)[^/\s@'\"]+)(?=@)"
    r"|(?<=://)(?P<only>[^/\s:@$'\"]{8,})(?=@)"
)
_QUERY = re.compile(
    r"(?<=[?&])((?:access_|api_?|auth_)?(?:token|key|password|secret|sig|signature)|X-Amz-Signature)=([^&\s'\"]+)",
    re.IGNORECASE,
)
_FORMS = re.compile(
    r"hf_[A-Za-z0-9]{16,}|sk-[\w-]{16,}|gh[pousr]_\w{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}|AKIA[0-9A-Z]{16}"
    r"|xox[abprs]-[\w-]{10,}|AIza[\w-]{30,}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*|(?:(?<=Bearer )|(?<=Basic ))[\w.~+/=-]{8,}"
)


class Secrets:
    """The secrets known to this process, each with the text that is written instead."""

    def __init__(self) -> None:
        self._shown: dict[str, str] = {}
        self._pattern: re.Pattern[str] | None = None

    def learn(self, given: Mapping[str, Any], resolved: Mapping[str, Any]) -> dict[Path, str]:
        """Record the secrets in settings, as given and as resolved. Returns the references, by path, that are written
        as references although they are not recognised as secrets."""
        kept: dict[Path, str] = {}
        for path, text in _texts(given):
            for name in _variables(text):
                value = os.environ.get(name)
                free = path[0] in FREE
                if value and (
                    _is_variable(name) or _is_key(path) or _in(value) or (free and _like_one(value))
                ):
                    self._add(value, f"${{oc.env:{name}}}")
                elif value and free:
                    kept[path] = text
        for path, text in _texts(resolved):
            for value in [text] if _is_key(path) else _in(text):
                hidden = self.hide(value)  # of `Bearer TOKEN` the reference of the token stays
                self._add(value, MASK if hidden == value else hidden)
        return kept

    def _add(self, value: str, shown: str) -> None:
        for form in {value, quote(value, safe=""), unquote(value)}:
            self._shown.setdefault(form, shown)
        known = sorted((value for value in self._shown if len(value) >= SHORTEST), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, known))) if known else None

    def hide(self, text: str) -> str:
        """A text with known secrets replaced."""
        return self._pattern.sub(lambda found: self._shown[found[0]], text) if self._pattern else text

    def hide_all(self, value: Any, path: Path = ()) -> Any:
        """Settings without secrets: known ones, and those recognised by key or form."""
        if isinstance(value, dict):
            return {key: self.hide_all(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.hide_all(item, (*path, index)) for index, item in enumerate(value)]
        if not isinstance(value, str):
            return value
        hidden = self.scrub(value)
        secret = _is_key(path) and hidden == value and not _variables(value)
        return self._shown.get(value, MASK) if secret else hidden

    def scrub(self, text: str) -> str:
        """A text without known secrets and without anything that has the form of a secret. Not for models' or users'
        data."""
        text = self.hide(text)
        text = _URL.sub(lambda f: MASK if f["only"] else f"{f['user']}:{MASK}", text)
        return _FORMS.sub(MASK, _QUERY.sub(lambda f: f"{f[1]}={MASK}", text))

    def forget(self) -> None:
        """Remove all."""
        self._shown, self._pattern = {}, None


SECRETS = Secrets()
"""The secrets of this process, which are removed from everything it writes."""


def with_references(tree: dict[str, Any], kept: Mapping[Path, str]) -> dict[str, Any]:
    """Put references back in place of their resolved values; changes the tree."""
    for path, text in kept.items():
        if isinstance(get(tree, path), str):
            put(get(tree, path[:-1]), path[-1:], text)
    return tree


def masked(tree: Mapping[str, Any]) -> list[str]:
    """A problem for each secret that is masked in the settings that were given."""
    return [
        f"{dotted(path)} holds {MASK} in place of a secret: give that again, best as ${{oc.env:NAME}}"
        for path, text in _texts(tree)
        if (text == MASK and (isinstance(path[-1], str) or _is_key(path)))
        or f":{MASK}@" in text
        or f"//{MASK}@" in text
    ]


def _texts(value: Any, path: Path = ()) -> Iterator[tuple[Path, str]]:
    """All texts with their paths, those in lists included."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(item, (*path, key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _texts(item, (*path, index))
    elif isinstance(value, str) and path:
        yield path, value


def _variables(text: str) -> list[str]:
    """Environment variables that a text refers to."""
    return [found[1] or found[2] for found in _REFERENCE.finditer(text)]


def _is_variable(name: str) -> bool:
    return name not in _NO_VARIABLE and _VARIABLE.fullmatch(name) is not None


def _is_key(path: Path) -> bool:
    """Whether a key's name marks its value as a secret; for a list entry, the list's name."""
    names = [part for part in path if isinstance(part, str)]
    last = names[-1] if names else ""
    return _KEY.fullmatch(last) is not None


def _like_one(value: str) -> bool:
    """Whether a value could be a password: one word with letters and digits and no slash."""
    return re.fullmatch(r"(?=.*\d)(?=.*[A-Za-z])[^\s/]{8,}", value) is not None


def _in(text: str) -> list[str]:
    """The parts of a text that have the form of a secret."""
    urls = [found["password"] or found["only"] for found in _URL.finditer(text)]
    queries = [found[2] for found in _QUERY.finditer(text)]
    return [*urls, *queries, *(found[0] for found in _FORMS.finditer(text))]
