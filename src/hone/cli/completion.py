"""`hone completion bash|zsh|fish`: a script in which commands, keys and values stand as text, so that a Tab starts no
Python. Made from the schema, without torch.

    source <(hone completion bash)          in ~/.bashrc, or  hone completion bash > FILE  once and source that
    source <(hone completion zsh)           in ~/.zshrc, after compinit
    hone completion fish | source           in ~/.config/fish/config.fish
"""

from __future__ import annotations

from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from hone import embedded
from hone.cli.arguments import ABOUT
from hone.config import dialects
from hone.config.keys import all_keys
from hone.config.schema import ROOTS
from hone.errors import ConfigError

OPTIONS = ("--config", "--dry-run", "--help")
SHELLS = ("bash", "zsh", "fish")


def script(shell: str) -> str:
    """The script for a shell. Raises ConfigError for another shell."""
    if shell not in SHELLS:
        raise ConfigError(f"hone completion {shell}: choose one of {', '.join(SHELLS)}")
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell]()


def keys_of(kind: str) -> list[str]:
    """Every key and short name that a command takes, and the learning rate, which is below a free mapping."""
    names = [key for key, _, _ in all_keys(ROOTS[kind])]
    names += [alias.path for alias in dialects.short(kind)]
    names += [] if kind == "eval" else ["policy.optimizer.kwargs.lr", "policy.optimizer.kwargs.weight_decay"]
    return sorted(set(names))


def values() -> dict[str, tuple[str, ...]]:
    """The values of every key that has few."""
    found: dict[str, tuple[str, ...]] = {}
    for kind, root in ROOTS.items():
        for key, field, _ in all_keys(root):
            if choices := tuple(dict.fromkeys(_choices(field.annotation))):
                found[key] = tuple(dict.fromkeys((*found.get(key, ()), *choices)))
            elif key.endswith("model_name"):
                found[key] = tuple(embedded.MODELS)
        for alias in dialects.short(kind):
            if alias.to[0] in found and alias.value is None and alias.compute is None:
                found.setdefault(alias.path, found[alias.to[0]])
    return found


def _choices(annotation: Any) -> Iterator[str]:
    origin = get_origin(annotation)
    if annotation is bool:
        yield from ("true", "false")
    elif origin is Literal:
        yield from map(str, get_args(annotation))
    elif origin is Annotated:
        yield from _choices(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for part in get_args(annotation):
            yield from _choices(part)
    elif annotation is type(None):
        yield "null"


def _choices_worth_it() -> dict[str, tuple[str, ...]]:
    return {key: choices for key, choices in values().items() if choices != ("null",)}


def _posix_tables() -> str:
    """`_hone_keys KIND` and `_hone_values KEY`, for bash (3.2 of macOS, too) and zsh."""
    lines = ["_hone_keys() {", '  case "$1" in']
    lines += [f"    {kind}) echo '{' '.join(keys_of(kind))}' ;;" for kind in ROOTS]
    lines += ["  esac", "}", "_hone_values() {", '  case "$1" in']
    by_values: dict[str, list[str]] = {}
    for key, choices in _choices_worth_it().items():
        by_values.setdefault(" ".join(choices), []).append(key)
    lines += [f"    {'|'.join(keys)}) echo '{choices}' ;;" for choices, keys in by_values.items()]
    return "\n".join([*lines, "  esac", "}"])


def _kinds(word: str = "|") -> str:
    return word.join(ROOTS)


def _bash() -> str:
    return f"""{_posix_tables()}
_hone_reply() {{  # WORDS TYPED BEFORE AFTER
  local word
  for word in $1; do
    case "$word" in "$2"*) COMPREPLY+=("$3$word$4") ;; esac
  done
}}
_hone() {{
  local IFS=$' \\t\\n'
  local line="${{COMP_LINE:0:COMP_POINT}}" cur words word
  cur="${{line##*[[:space:]]}}"
  read -ra words <<< "${{line%"$cur"}}"
  COMPREPLY=()
  if [ "${{#words[@]}}" -le 1 ]; then
    _hone_reply '{" ".join(ABOUT)}' "$cur" '' ' '
    return
  fi
  word="${{words[1]}}"
  case "$word" in
    completion) _hone_reply '{" ".join(SHELLS)}' "$cur" '' ' '; return ;;
    plan|tune|config)
      if [ "${{#words[@]}}" -eq 2 ]; then
        _hone_reply '{_kinds(" ")}' "$cur" '' ' '; return
      fi
      word="${{words[2]}}" ;;
  esac
  case "$word" in {_kinds()}) ;; *) return ;; esac
  case "${{words[${{#words[@]}}-1]}}" in --config) return ;; esac
  local head="${{cur%%[A-Za-z-]*}}" after='='
  case "${{words[1]}}$head" in config*|*'~') after=' ' ;; esac
  case "$cur" in
    *=*) word="${{cur%%=*}}"; _hone_reply "$(_hone_values "${{word#"$head"}}")" "${{cur#*=}}" '' ' ' ;;
    --*) _hone_reply '{" ".join(OPTIONS)}' "$cur" '' ' ' ;;
    *) _hone_reply "$(_hone_keys "$word")" "${{cur#"$head"}}" "$head" "$after" ;;
  esac
}}
complete -o nospace -o default -F _hone hone
"""


def _zsh() -> str:
    described = "\n".join(f"    '{name}:{text.replace(chr(39), '')}'" for name, text in ABOUT.items())
    return f"""#compdef hone
{_posix_tables()}
_hone() {{
  local -a commands
  commands=(
{described}
  )
  local kind="${{words[2]}}" word="${{words[2]}}"
  if (( CURRENT == 2 )); then _describe command commands; return; fi
  case "$kind" in
    completion) compadd {" ".join(SHELLS)}; return ;;
    plan|tune|config)
      if (( CURRENT == 3 )); then compadd {_kinds(" ")}; return; fi
      word="${{words[3]}}" ;;
  esac
  case "$word" in {_kinds()}) ;; *) _files; return ;; esac
  if [[ "${{words[CURRENT-1]}}" == --config ]]; then _files; return; fi
  local prefix="${{PREFIX%%[A-Za-z-]*}}"
  if compset -P '*='; then
    local key="${{${{words[CURRENT]%%=*}}#$prefix}}"
    local -a found
    found=($(_hone_values "$key"))
    if (( $#found )); then compadd -a found; else _files; fi
  elif [[ "$PREFIX" == --* ]]; then
    compadd -- {" ".join(OPTIONS)}
  else
    local -a found
    found=($(_hone_keys "$word"))
    [[ -n "$prefix" ]] && compset -P "$prefix"
    if [[ "$kind" == config || "$prefix" == '~' ]]; then compadd -a found; else compadd -S '=' -a found; fi
  fi
}}
(( $+functions[compdef] )) && compdef _hone hone
"""


def _fish() -> str:
    keys = "\n".join(f"    case {kind}\n      string split ' ' '{' '.join(keys_of(kind))}'" for kind in ROOTS)
    few = "\n".join(
        f"    case {key}\n      string split ' ' '{' '.join(choices)}'"
        for key, choices in _choices_worth_it().items()
    )
    commands = "\n".join(
        f"complete -c hone -n __hone_first -f -a {name} -d '{text.replace(chr(39), '')}'"
        for name, text in ABOUT.items()
    )
    return f"""function __hone_keys
  switch $argv[1]
{keys}
  end
end
function __hone_values
  switch $argv[1]
{few}
  end
end
function __hone_first
  test (count (commandline -opc)) -eq 1
end
function __hone_second
  set -l words (commandline -opc)
  test (count $words) -eq 2; and contains -- $words[2] $argv
end
function __hone_kind
  set -l words (commandline -opc)
  if contains -- "$words[2]" plan tune config
    echo $words[3]
  else
    echo $words[2]
  end
end
function __hone_settings
  set -l token (commandline -ct)
  set -l key (string replace -r '^[+~]*' '' -- (string split -m 1 = -- $token)[1])
  if string match -q '*=*' -- $token
    set -l parts (string split -m 1 = -- $token)
    set -l found (__hone_values $key)
    test (count $found) -eq 0; and set found (__fish_complete_path $parts[2])
    for value in $found
      echo $parts[1]=$value
    end
  else
    set -l words (commandline -opc)
    set -l equals =
    test "$words[2]" = config; and set equals ''
    for name in (__hone_keys (__hone_kind))
      echo $name$equals
    end
  end
end
{commands}
function __hone_settings_now
  contains -- (__hone_kind) $argv; and not __hone_second plan tune config
end
complete -c hone -n '__hone_second completion' -f -a '{" ".join(SHELLS)}'
complete -c hone -n '__hone_second plan tune config' -f -a '{_kinds(" ")}'
complete -c hone -n '__hone_settings_now {_kinds(" ")}' -f -a '(__hone_settings)'
complete -c hone -n 'contains -- (__hone_kind) {_kinds(" ")}' -l config -r
complete -c hone -n 'contains -- (__hone_kind) {_kinds(" ")}' -l dry-run
"""
