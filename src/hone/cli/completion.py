"""`hone completion bash|zsh|fish`: a script that holds commands, keys and values as text, so that Tab starts no Python.
Made from the schema, without torch.

    source <(hone completion bash)          in ~/.bashrc, or  hone completion bash > FILE  once and source that
    source <(hone completion zsh)           in ~/.zshrc, after compinit
    hone completion fish | source           in ~/.config/fish/config.fish
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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


def keys_of(command: str) -> list[str]:
    """Every key and short name that a command takes, and the optimizer's usual arguments."""
    names = [key for key, _, _ in all_keys(ROOTS[command])]
    names += [alias.path for alias in dialects.short(command)]
    names += (
        [] if command == "eval" else ["policy.optimizer.kwargs.lr", "policy.optimizer.kwargs.weight_decay"]
    )
    return sorted(set(names))


def values() -> dict[str, tuple[str, ...]]:
    """The values of every key that takes one of a few."""
    found: dict[str, tuple[str, ...]] = {}
    for command, root in ROOTS.items():
        for key, field, _ in all_keys(root):
            if (choices := tuple(_choices(field.annotation))) and choices != ("null",):
                found[key] = tuple(dict.fromkeys((*found.get(key, ()), *choices)))
            elif key.endswith("model_name"):
                found[key] = tuple(embedded.MODELS)
        for alias in dialects.short(command):
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


def _posix_tables() -> str:
    """`_hone_keys COMMAND` and `_hone_values KEY`, for bash (also macOS's 3.2) and zsh."""
    lines = ["_hone_keys() {", '  case "$1" in']
    lines += [f"    {command}) echo '{' '.join(keys_of(command))}' ;;" for command in ROOTS]
    lines += ["  esac", "}", "_hone_values() {", '  case "$1" in']
    by_values: dict[str, list[str]] = {}
    for key, choices in values().items():
        by_values.setdefault(" ".join(choices), []).append(key)
    lines += [f"    {'|'.join(keys)}) echo '{choices}' ;;" for choices, keys in by_values.items()]
    return "\n".join([*lines, "  esac", "}"])


PATTERN, WORDS = "|".join(ROOTS), " ".join(ROOTS)
"""The commands with a configuration, as a pattern of the shell and as words."""


def _descriptions() -> dict[str, str]:
    return {name: text.replace("'", "") for name, text in ABOUT.items()}


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
        _hone_reply '{WORDS}' "$cur" '' ' '; return
      fi
      word="${{words[2]}}" ;;
  esac
  case "$word" in {PATTERN}) ;; *) return ;; esac
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
    described = "\n".join(f"    '{name}:{text}'" for name, text in _descriptions().items())
    return f"""#compdef hone
{_posix_tables()}
_hone() {{
  local -a commands
  commands=(
{described}
  )
  local command="${{words[2]}}" word="${{words[2]}}"
  if (( CURRENT == 2 )); then _describe command commands; return; fi
  case "$command" in
    completion) compadd {" ".join(SHELLS)}; return ;;
    plan|tune|config)
      if (( CURRENT == 3 )); then compadd {WORDS}; return; fi
      word="${{words[3]}}" ;;
  esac
  case "$word" in {PATTERN}) ;; *) _files; return ;; esac
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
    if [[ "$command" == config || "$prefix" == '~' ]]; then compadd -a found; else compadd -S '=' -a found; fi
  fi
}}
(( $+functions[compdef] )) && compdef _hone hone
"""


def _fish() -> str:
    def cases(table: dict[str, Iterable[str]]) -> str:
        return "\n".join(
            f"    case {name}\n      string split ' ' '{' '.join(of)}'" for name, of in table.items()
        )

    commands = "\n".join(
        f"complete -c hone -n __hone_first -f -a {name} -d '{text}'" for name, text in _descriptions().items()
    )
    return f"""function __hone_keys
  switch $argv[1]
{cases({command: keys_of(command) for command in ROOTS})}
  end
end
function __hone_values
  switch $argv[1]
{cases(dict(values()))}
  end
end
function __hone_first
  test (count (commandline -opc)) -eq 1
end
function __hone_second
  set -l words (commandline -opc)
  test (count $words) -eq 2; and contains -- $words[2] $argv
end
function __hone_command
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
    for name in (__hone_keys (__hone_command))
      echo $name$equals
    end
  end
end
{commands}
function __hone_settings_now
  contains -- (__hone_command) $argv; and not __hone_second plan tune config
end
complete -c hone -n '__hone_second completion' -f -a '{" ".join(SHELLS)}'
complete -c hone -n '__hone_second plan tune config' -f -a '{WORDS}'
complete -c hone -n '__hone_settings_now {WORDS}' -f -a '(__hone_settings)'
complete -c hone -n 'contains -- (__hone_command) {WORDS}' -l config -r
complete -c hone -n 'contains -- (__hone_command) {WORDS}' -l dry-run
"""
