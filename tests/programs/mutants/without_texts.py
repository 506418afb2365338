"""mutmut, which leaves texts alone: run as a file, with mutmut's own arguments.

Not as a module: it would import the package ``tests`` of the copy, and mutmut has another copy.

What an error or a log line says is for people, and so is the name of a field in it; keys and
names of a protocol stand in constants, or are held by the contract tests.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


def main() -> None:
    # Only here: they are in no environment but that of make mutants.
    libcst = importlib.import_module("libcst")
    mutators = importlib.import_module("mutmut.mutation.mutators")
    texts = (libcst.SimpleString, libcst.FormattedString, libcst.ConcatenatedString)
    of_arguments = mutators.operator_arg_removal

    def of_other_arguments(node: Any) -> Iterator[Any]:
        for mutated in of_arguments(node):
            kept = {id(each) for each in mutated.args}
            changed = [each for each in node.args if id(each) not in kept]
            if not all(isinstance(each.value, texts) for each in changed):
                yield mutated

    operators = {
        mutators.operator_string: None,
        of_arguments: of_other_arguments,
    }
    mutators.mutation_operators[:] = [
        (kind, chosen)
        for kind, operator in mutators.mutation_operators
        if (chosen := operators.get(operator, operator)) is not None
    ]
    sys.argv[0], sys.path[0] = "mutmut", str(Path.cwd())
    importlib.import_module("mutmut.__main__").cli()


if __name__ == "__main__":
    main()
