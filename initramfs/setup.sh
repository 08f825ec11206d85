# shellcheck shell=sh
# What `tests/run.sh` and `initramfs/demo.sh` share: Debian packages, a virtual environment outside the tree, and megamod
# installed into it, as a wheel or from the tree as it is. Sourced with $top set to the root of the project. Everything
# that is made lies in ${XDG_CACHE_HOME:-~/.cache}/megamod; a second run finds it and needs no network. What is installed
# from a package registry has the versions and hashes of .github/constraints.txt.

: "${top:?is to be set}"

# The wheel must be of the tree as it is, so a value of the caller's shell has no say.
unset PYTHONPATH PYTHONHOME
XDG_CACHE_HOME=${XDG_CACHE_HOME:-$HOME/.cache}
export XDG_CACHE_HOME
cache=$XDG_CACHE_HOME/megamod
lock=$top/.github/constraints.txt

say() {
	echo "setup: $*"
}

die() {
	echo "setup: $*" >&2
	exit 1
}

is_installed() {
	[ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# need_packages NAME…: installs those that are missing. A|B is whichever of two names this release of Debian has.
need_packages() {
	command -v dpkg-query >/dev/null 2>&1 || die "this needs Debian, or a system made from it: no dpkg-query here"
	missing=
	for wanted in "$@"; do
		is_installed "${wanted%%|*}" || is_installed "${wanted##*|}" || missing="$missing $wanted"
	done
	[ -n "$missing" ] || return 0
	say "packages missing:$missing"
	root=
	if [ "$(id -u)" -ne 0 ]; then
		if ! command -v sudo >/dev/null 2>&1; then
			echo "setup: not root and no sudo; run this as root, then come back:" >&2
			echo "    apt-get update && apt-get install --yes --no-install-recommends$(known_names)" >&2
			exit 1
		fi
		root=sudo
	fi
	$root apt-get -qq update
	names=$(known_names)
	say "apt-get install$names"
	# shellcheck disable=SC2086 # several words
	$root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 install --yes --no-install-recommends $names
}

# The names in $missing, of two the one that apt knows.
known_names() {
	for wanted in $missing; do
		if [ -n "$(apt-cache madison "${wanted%%|*}" 2>/dev/null)" ]; then
			printf ' %s' "${wanted%%|*}"
		else
			printf ' %s' "${wanted##*|}"
		fi
	done
}

# Sets $python to the first Python of 3.11 or newer, with python3-venv installed where its venv has no pip, unless
# $packages is "no".
need_python() {
	command -v python3 >/dev/null 2>&1 || need_python_package python3
	for python in python3 /usr/bin/python3; do
		"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
		"$python" -c 'import ensurepip, venv' 2>/dev/null && return
	done
	/usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
		die "Python 3.11 or newer is needed: Debian 12 (bookworm) and later have it"
	need_python_package python3-venv
	python=/usr/bin/python3
}

need_python_package() {
	[ "${packages:-yes}" = yes ] || die "python3 of 3.11 or newer with venv and pip is needed (Debian: apt-get install $1)"
	need_packages "$1"
}

# make_venv FOLDER STAMP: an empty virtual environment, unless there is one that was finished for the same STAMP.
make_venv() {
	[ "$(cat "$1/.megamod-stamp" 2>/dev/null)" = "$2" ] && return 1
	say "virtual environment $1"
	rm -rf "$1"
	"$python" -m venv "$1"
}

# locked CONDITION [LOCK]: the lines of the lock file for the packages that the awk condition is true of; `name` is a
# package's name.
locked() {
	awk "/^[a-z]/ { name = \$0; sub(/[=[ ].*/, \"\", name) } $1" "${2:-$lock}"
}

# What pyproject.toml lists under the extra `build`, without versions.
build_tools() {
	"$python" - "$top/pyproject.toml" <<-'EOT'
		import re, sys, tomllib
		with open(sys.argv[1], "rb") as file:
		    wanted = tomllib.load(file)["project"]["optional-dependencies"]["build"]
		print(" ".join(re.match(r"[\w-]+", one)[0] for one in wanted))
	EOT
}

# pip_locked ENVIRONMENT CONDITION [LOCK]: what the condition takes of the lock file, and nothing else.
pip_locked() {
	locked "$2" "${3:-}" >"$1/.megamod-lock.txt"
	say "pip install ${1##*/}: $(grep -c '==' "$1/.megamod-lock.txt") packages"
	"$1/bin/python" -m pip install -qq --require-hashes --no-deps -r "$1/.megamod-lock.txt"
}

# What the wheel is made of; what lies there besides (caches, a loader built in place) is none of it.
source_files() {
	(cd "$top" && find pyproject.toml README.md LICENSE loader profiles initramfs \
		\( -name __pycache__ -o -path loader/bin -o -name '*.egg-info' \) -prune -o -type f -print | LC_ALL=C sort)
}

hash_of() {
	(cd "$top" && source_files | tr '\n' '\0' | xargs -0 sha256sum | sha256sum | cut -d ' ' -f 1)
}

# prepare_venv NAME EXTRAS: sets $venv to the environment of this tree with what megamod and EXTRAS need ('' or '[test]'),
# $builder to that of the build tools. Fills them under the lock that the caller holds.
prepare_venv() {
	need_python
	version=$("$python" -c 'import sys; print(sys.version, sys.prefix)')
	tools=$(build_tools)
	wanted="index(\" $tools \", \" \" name \" \")"
	# Other trees may want other tools, so their names and hashes name the folder.
	builder=$cache/build-venv-$(locked "$wanted" | sha256sum | cut -c 1-12)
	if make_venv "$builder" "$version"; then
		pip_locked "$builder" "$wanted"
		echo "$version" >"$builder/.megamod-stamp"
	fi
	# Two trees have two environments, and one set of build tools (ziglang is large).
	venv=$cache/$1-$(printf %s "$top" | sha256sum | cut -c 1-12)
	stamp="$version $2 $(sha256sum <"$lock")"
	if make_venv "$venv" "$stamp"; then
		if [ "$2" = '[test]' ]; then
			pip_locked "$venv" 'name != "ziglang"'
		else
			# Versions without hashes: with them pip wants those of every package, so of all that the tests need too.
			sed '/--hash=/d; s/ *\\$//' "$lock" >"$venv/.megamod-lock.txt"
		fi
		echo "$stamp" >"$venv/.megamod-stamp"
	fi
}

# Two runs at the same time must not fill one environment.
hold_lock() {
	mkdir -p "$cache"
	exec 9>"$cache/setup.lock"
	flock -n 9 || {
		say "waiting for another run that fills an environment"
		flock 9
	}
}

# install_megamod EXTRAS: the tree as a wheel into $venv, with its dependencies and those of EXTRAS ('' or '[test]').
install_megamod() {
	hold_lock
	case $1 in
	'') prepare_venv demo-venv '' ;;
	*) prepare_venv venv "$1" ;;
	esac
	sources=$(hash_of)
	if [ "$(cat "$venv/.megamod-installed" 2>/dev/null)" != "$sources" ]; then
		rm -f "$venv/.megamod-installed"
		build_wheel
		say "pip install ${wheel##*/}"
		"$venv/bin/python" -m pip install -qq --no-deps --force-reinstall "$wheel"
		[ "$1" = '[test]' ] || "$venv/bin/python" -m pip install -qq -c "$venv/.megamod-lock.txt" megamod
		echo "$sources" >"$venv/.megamod-installed"
	fi
	exec 9>&-
}

# install_editable: this tree as it is into $venv, with what the tests need; edits and new files are seen at once.
install_editable() {
	hold_lock
	prepare_venv unit-venv '[test]'
	if [ ! -e "$venv/.megamod-installed" ]; then
		"$venv/bin/python" -m pip install -qq --no-deps --no-build-isolation --no-index -e "$top"
		: >"$venv/.megamod-installed"
	fi
	exec 9>&-
}

# Gives the environment $1 the compiler of the build tools, by a link: it is large, and only the tests of the loader want it there.
share_ziglang() {
	for folder in "$builder"/lib/python3.*/site-packages/ziglang; do
		ln -sfn "$folder" "$(echo "$1"/lib/python3.*/site-packages)/ziglang"
	done
}

# Sets $wheel. Built from a copy: setuptools leaves build/ and egg-info in the tree, and ships what a stale build/ holds.
build_wheel() {
	say "building the wheel"
	copy=$cache/wheel-${venv##*-}
	rm -rf "$copy"
	mkdir -p "$copy/tree" "$copy/out"
	(cd "$top" && source_files | tr '\n' '\0' | xargs -0 tar -cf - --) | tar -C "$copy/tree" -xf -
	"$builder/bin/python" -m pip wheel -qq --no-deps --no-build-isolation --wheel-dir "$copy/out" \
		"$copy/tree"
	for wheel in "$copy"/out/*.whl; do :; done
	rm -rf "$copy/tree"
}
