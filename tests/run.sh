#!/bin/sh
# Sets up all that the tests need, checks form and types, and runs the tests: sh tests/run.sh [ARGUMENT OF pytest]…
# With --unit as the first argument: the form, the types and the tests that need neither root nor packages of the system
# nor a network beyond pip's, in under two minutes.
set -eu

top=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
# shellcheck source=initramfs/setup.sh
. "$top/initramfs/setup.sh"

step() {
	echo "== $*"
}

# The same commands as in .pre-commit-config.yaml.
check_form() {
	step ruff
	"$py" -m ruff check .
	"$py" -m ruff format --check .

	step clang-format
	find loader tests -name bin -prune -o -name '*.[ch]' -print0 | xargs -0 "$venv/bin/clang-format" --dry-run -Werror

	step mypy
	"$py" -m mypy --cache-dir "$venv/mypy-cache" initramfs/megamod

	step imports
	PYTHONPATH=initramfs "$venv/bin/lint-imports" --no-cache
}

# The fast unit tests with the lowest versions that pyproject.toml allows, of each package that it names.
run_lowest() {
	lowest=$cache/lowest-venv-$(printf %s "$top" | sha256sum | cut -c 1-12)
	stamp="$version $(sha256sum <.github/lowest.txt)"
	if make_venv "$lowest" "$stamp"; then
		pip_locked "$lowest" 'name != "ziglang"' .github/lowest.txt
		"$lowest/bin/python" -m pip install -qq --no-deps --no-build-isolation --no-index -e .
		echo "$stamp" >"$lowest/.megamod-stamp"
	fi
	share_ziglang "$lowest"
	"$lowest/bin/python" -m pytest -q -n 2 -m 'not slow and not heavy' tests/unit
}

cd "$top"

if [ "${1:-}" = --unit ]; then
	shift
	# shellcheck disable=SC2034 # read by setup.sh
	packages=no
	install_editable
	py=$venv/bin/python
	share_ziglang "$venv"
	check_form
	step pytest
	case " $*" in
	*" tests/"*) ;;
	*) set -- tests/unit "$@" ;;
	esac
	exec "$py" -m pytest -n 2 --dist worksteal -m 'not slow and not heavy' "$@"
fi

need_packages systemd qemu-system-x86 qemu-system-arm qemu-system-misc device-tree-compiler kmod \
	busybox-static e2fsprogs btrfs-progs xfsprogs debootstrap openssl cpio binutils xz-utils zstd lz4 gcc git \
	libc6-dev make patch shellcheck bzip2 lzop ovmf systemd-boot-efi sbsigntool \
	f2fs-tools erofs-utils squashfs-tools dosfstools exfatprogs jfsutils ntfs-3g nilfs-tools reiserfsprogs bcache-tools \
	mtd-utils genisoimage cryptsetup-bin gdisk fdisk util-linux-extra \
	man-db mandoc bash-completion zsh fish \
	grub-common gdb u-boot-tools u-boot-qemu softhsm2 libengine-pkcs11-openssl 'libarchive13t64|libarchive13'
# tests/kernels builds kernels only in CI.
[ "${CI:-}" != true ] || need_packages flex bison bc libelf-dev libssl-dev
install_megamod '[test]'
py=$venv/bin/python
share_ziglang "$venv"
check_form

step shellcheck
{
	find initramfs profiles loader tests -name '*.sh' -o -name '*.bash'
	echo .ci/run
} | tr '\n' '\0' | xargs -0 shellcheck -x

if [ "${CI:-}" = true ]; then
	step "lowest versions"
	run_lowest
fi

step kernels
# Without a network the tests that need what is not in the cache are skipped, or fail where CI=true.
"$py" - bookworm bookworm-backports sid bookworm:arm64 trixie:arm64 sid:arm64 trixie:armhf trixie:riscv64 \
	sid:riscv64 <<-'EOT' || [ "${CI:-}" != true ]
	import sys
	from megamod.boot.debian import fetch_kernel
	from megamod.common.host import cache_folder
	from megamod.common.errors import MegamodError
	try:
	    for word in sys.argv[1:]:
	        suite, _, architecture = word.partition(":")
	        kernel = fetch_kernel(suite, architecture=architecture or "amd64", cache=cache_folder(), say=print)
	        print(suite, kernel.release, flush=True)
	except MegamodError as error:
	    sys.exit(f"megamod: {error}")
EOT

step "space"
df -h "$cache" "${TMPDIR:-/tmp}"

step pytest
# Guests wait for their devices and clocks a good part of their time, so a third test keeps two cores busy. Where all goes
# wrong the end comes soon, with its reasons, and not with a time limit of whoever runs this.
exec "$py" -m pytest -n 3 --dist worksteal --durations=40 --maxfail=40 "$@"
