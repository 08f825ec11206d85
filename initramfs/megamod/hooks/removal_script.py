"""A POSIX sh script that takes an installation back without megamod, whose Python may be gone by then."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

# What another record names, too, stays for that one.
_SCRIPT = """\
#!/bin/sh
# Written by megamod. Takes away {what}, without megamod: sh /{own}
case $0 in
*/*) root=${{0%/*}} ;;
*) root=. ;; # `sh NAME`
esac
root=$(CDPATH='' cd -- "$root/{up}" && pwd -P) || exit 1
cd -- "$root" || exit 1
if [ -x {settler} ]; then
	{settler} settle . {journal} || exit 1
fi

shared() {{
	for other in {records}; do
		[ "$other" = {record} ] || ! grep -qsF "\\"$1\\"" "$other" || return 0
	done
	return 1
}}

for name in {names}; do
	shared "$name" || rm -f -- "$name" || exit 1
done
rm -f -- {record} || exit 1
{more}
prune() {{
	for name in {folders}; do
		rmdir -- "$name" 2>/dev/null
	done
}}
prune
shared {own} || rm -f -- {own}
prune
echo 'megamod: removed; {left}'
"""


def removal_script(
    *,
    what: str,
    own: str,
    names: Iterable[str],
    folders: Iterable[str],
    record: str,
    records: str,
    settler: str,
    journal: str,
    left: str,
    more: str = "",
) -> bytes:
    """The script at *own*, which removes *names*, *record* and, where they are empty, *folders*, all below the root.

    *records* is a glob of the records whose files stay; *settler* the guard that settles *journal*; *more* are shell
    lines; *left* says what is left to do.
    """
    text = _SCRIPT.format(
        what=what,
        own=shlex.quote(own),
        up="/".join([".."] * own.count("/")),
        settler=shlex.quote(settler),
        journal=shlex.quote(journal),
        records=records,
        record=shlex.quote(record),
        names=" ".join(shlex.quote(name) for name in names if name not in (own, record)),
        folders=" ".join(shlex.quote(name) for name in sorted(folders, reverse=True)),
        left=left,
        more=more,
    )
    return text.encode()
