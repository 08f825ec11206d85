#!/bin/sh
# Sets up all that the demo needs, and runs it: sh initramfs/demo.sh [--suite SUITE] [--keep FOLDER]
set -eu

top=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
# shellcheck source=initramfs/setup.sh
. "$top/initramfs/setup.sh"

need_packages qemu-system-x86 kmod busybox-static e2fsprogs 'libarchive13t64|libarchive13'
install_megamod ''
exec "$venv/bin/megamod" demo "$@"
