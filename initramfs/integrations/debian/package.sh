#!/bin/sh
# Makes the Debian package of this checkout, without a network: package.sh [FOLDER]. The packaging is copied to debian/ of a
# copy of the tree, whose top level stays as it is.
set -e
top=$(CDPATH='' cd -- "$(dirname -- "$0")/../../.." && pwd)
out=${1:-$PWD}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/megamod"
for name in LICENSE README.md pyproject.toml initramfs loader profiles; do
	cp -R "$top/$name" "$work/megamod/"
done
find "$work/megamod" -name __pycache__ -prune -exec rm -rf {} +
rm -rf "$work/megamod/loader/bin"
cp -R "$top/initramfs/integrations/debian/debian" "$work/megamod/debian"
(cd "$work/megamod" && dpkg-buildpackage -us -uc -b)
mv "$work"/*.deb "$work"/*.changes "$work"/*.buildinfo "$out/"
