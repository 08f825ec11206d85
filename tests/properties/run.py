"""Random prelinks of a kernel's modules, as many as asked for, judged by the oracle; a failing one is shrunk and saved.

    python -m tests.properties.run --kernel DIR --cases N --seed S [--save DIR]

DIR holds lib/modules/KVER with modules.dep. Exit status 1 if any case failed.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tests.properties.cases import Outcome, draw, run_case, shrink
from tests.properties.modules import Tree, open_folder


def main() -> int:
    """Parses the arguments, runs the cases, prints a closing summary."""
    parser = argparse.ArgumentParser(description="random prelinks, judged by the oracle")
    parser.add_argument("--kernel", type=Path, required=True, help="folder with lib/modules/KVER")
    parser.add_argument("--cases", type=int, default=100, help="how many (default 100)")
    parser.add_argument("--seed", default="1", help="any text; the same text draws the same cases (default 1)")
    parser.add_argument("--save", type=Path, help="folder for failing cases (default: not saved)")
    parser.add_argument("--first", type=int, default=0, help="number of the first case (to repeat one)")
    arguments = parser.parse_args()
    tree = open_folder(arguments.kernel)
    console = Console()
    failed, members, singles = 0, 0, Counter[str]()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(tree.folder.name, total=arguments.cases)
        for number in range(arguments.first, arguments.first + arguments.cases):
            outcome = run_case(tree, draw(tree, f"{arguments.seed}-{number}"))
            members += len(outcome.case.members)
            singles.update(text for _, text in outcome.singles)
            if outcome.kinds:
                failed += 1
                progress.console.print(f"case {number} fails: {', '.join(outcome.kinds)}; shrinking", markup=False)
                smallest = shrink(tree, outcome)
                for line in (str(smallest.case), " ".join(smallest.case.members), *smallest.lines[:12]):
                    progress.console.print("  " + line, markup=False, soft_wrap=True)
                if arguments.save:
                    _save(arguments.save, f"{tree.folder.name}-{arguments.seed}-{number}", tree, smallest)
            progress.update(task, advance=1, description=f"{tree.folder.name}: {failed} failed")
    print(f"{arguments.cases} cases, {members} members merged, {failed} failed")
    for text, count in singles.most_common(20):
        print(f"  refused {count} times: {text}")
    return 1 if failed else 0


def _save(folder: Path, name: str, tree: Tree, outcome: Outcome) -> None:
    """The case as JSON, with the megamodule and its map where there is one."""
    folder.mkdir(parents=True, exist_ok=True)
    case = outcome.case
    record = {
        "kernel": tree.folder.name,
        "members": case.members,
        "options": {
            "unwind": case.unwind,
            "tracing": case.tracing,
            "symbols": case.symbols,
            "static_calls": case.static_calls,
            "allow_taint": case.allow_taint,
        },
        "kinds": outcome.kinds,
        "lines": outcome.lines,
    }
    (folder / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    if outcome.megamodule is not None:
        (folder / f"{name}.ko").write_bytes(outcome.megamodule.data)
        (folder / f"{name}.map.json").write_text(json.dumps(outcome.megamodule.map) + "\n")


if __name__ == "__main__":
    sys.exit(main())
