#!/bin/sh
# Writes the two lock files from pyproject.toml, with the newest and the lowest versions that it allows: sh tests/lock.sh
# Needs uv (pip install uv) and a package registry; no address of one gets into the files.
set -eu

cd -- "$(dirname -- "$0")/.."

lock() {
	out=$1
	shift
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --all-extras --no-emit-index-url \
		--no-annotate --custom-compile-command 'sh tests/lock.sh' "$@" -o "$out" pyproject.toml
}

lock .github/constraints.txt --upgrade
lock .github/lowest.txt --resolution lowest-direct --upgrade
