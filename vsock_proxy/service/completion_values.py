"""Parts of completion scripts that shtab does not write: ``--option=VALUE``, ``file://PATH``."""

from __future__ import annotations

import re
from typing import Final

BASH: Final = """
# Bash splits words at `=` and `:` (COMP_WORDBREAKS): an option, its `=` and its value become what
# %(function)s knows, and the path of file://PATH and fileb://PATH is completed here.
%(function)s_values() {
  local line="${COMP_LINE:0:COMP_POINT}" word="${COMP_WORDS[COMP_CWORD]}" before="" each
  local typed="${line##*[[:space:]]}" of_path='^(--[a-z0-9-]+=)?fileb?://(.*)$'
  if %(files)s && [[ "$typed" =~ $of_path ]]; then
    local path="${BASH_REMATCH[2]}"
    COMPREPLY=()
    while IFS= read -r each; do
      [[ -d "$each" ]] && each+=/
      COMPREPLY+=("${word%%"$path"}$each")
    done < <(compgen -f -- "$path")
    [[ "${COMPREPLY[*]-}" == */ ]] && compopt -o nospace 2>/dev/null
    return 0
  fi
  local words=() last=""
  for each in "${COMP_WORDS[@]:0:COMP_CWORD+1}"; do
    before=""
    if [[ "$each" == = && "$last" == --* ]]; then
      last="="
      words+=("")
      continue
    elif [[ "$last" == = ]]; then
      words[${#words[@]}-1]="$each"
    elif [[ "$each" == --*=* ]]; then
      before="${each%%%%=*}="
      words+=("${each%%%%=*}" "${each#*=}")
    else
      words+=("$each")
    fi
    last="$each"
  done
  local COMP_WORDS=("${words[@]}") COMP_CWORD=$((${#words[@]} - 1))
  %(function)s "$@"
  [[ -n "$before" ]] && COMPREPLY=("${COMPREPLY[@]/#/$before}")
  return 0
}
"""

ZSH_FILES: Final = """
_parameter_file() {
  compset -P 'file(b|)://' && _files
}
"""

_FISH_VALUE: Final = "(commandline -ct | string replace -r -- '^--[^=]*=' '')"

FISH_FILES: Final = f"""
function _parameter_file
    set -l word {_FISH_VALUE}
    set -l scheme (string match -r -- '^fileb?://' $word); or return
    for path in (__fish_complete_path (string replace -- $scheme '' $word))
        echo -- $scheme$path
    end
end
"""


def with_values_in_bash(script: str, *, files: bool) -> str:
    """Return a script for bash that completes values after ``=`` as well."""
    [function] = re.findall(r"^complete -o bashdefault -F (\w+) ", script, re.MULTILINE)
    before, complete, after = script.rpartition("complete -o bashdefault -F ")
    own = BASH % {"function": function, "files": "true" if files else "false"}
    return before + own + complete + after.replace(function, f"{function}_values", 1)


def with_values_in_zsh(script: str) -> str:
    """Return a script for zsh in which options take their values after ``=`` as well."""
    lines = []
    for line in script.split("\n"):
        head, bracket, rest = line.partition("[")
        # shtab escapes brackets and colons of the help; what follows it are name and completer.
        if head.lstrip().startswith(('"', "{")) and "]:" in rest:
            head = re.sub(r"--[\w-]+", r"\g<0>=", head)
        lines.append(head + bracket + rest)
    return "\n".join(lines)


def with_values_in_fish(script: str) -> str:
    """Return a script for fish that completes files and folders after ``=`` as well."""
    for written, own in (
        ("(__fish_complete_path (commandline -ct))", f"(__fish_complete_path {_FISH_VALUE})"),
        ("(__fish_complete_directories)", f"(__fish_complete_directories {_FISH_VALUE})"),
    ):
        script = script.replace(written, own)
    return script
