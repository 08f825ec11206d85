# shellcheck shell=bash
# A stand-in for mkinitcpio, which Debian does not have: what its install hooks may call (mkinitcpio(8), "BUILD HOOKS")
# and the order of its work (mkinitcpio, functions): build hooks first, modules copied afterwards, then modules.builtin
# written anew and depmod run. mkinitcpio.bash HOOKFILE BUILDROOT KERNELVERSION MODULE…
set -e

hookfile=$1 BUILDROOT=$2 KERNELVERSION=$3
shift 3
_d_kmoduledir=${MODULES_ROOT:-}/lib/modules/$KERNELVERSION
declare -A _modpaths _addedmodules

warning() {
    # shellcheck disable=SC2059 # mkinitcpio's takes a format too
    printf "==> WARNING: $1\n" "${@:2}" >&2
}

add_file() {
    local src=$1 dest=${2:-$1} mode=${3:-644}
    install -D -m "$mode" "${FILES_ROOT:-}$src" "$BUILDROOT$dest"
}

add_symlink() {
    mkdir -p "$BUILDROOT${1%/*}"
    ln -sfn "$2" "$BUILDROOT$1"
}

add_runscript() {
    install -D -m 644 "${RUNSCRIPT:?}" "$BUILDROOT/hooks/megamod"
}

install_modules() {
    local m
    for m in "$@"; do
        install -D -m 644 "$m" "$BUILDROOT/usr/lib/modules/$KERNELVERSION/${m#"$_d_kmoduledir"/}"
    done
    install -m 644 "$_d_kmoduledir"/modules.{builtin,order} "$BUILDROOT/usr/lib/modules/$KERNELVERSION/"
    depmod -b "$BUILDROOT/usr" "$KERNELVERSION"
}

mkdir -p "$BUILDROOT/usr/lib/modules/$KERNELVERSION"
ln -sfn usr/lib "$BUILDROOT/lib"
mkdir -p "$BUILDROOT/usr/lib"
ln -sfn lib "$BUILDROOT/usr/lib64"
printf '#!/bin/sh\n' >"$BUILDROOT/init"
for module in "$@"; do
    for dep in "$module" $(modinfo -b "${MODULES_ROOT:-}/" -k "$KERNELVERSION" -F depends "$module" | tr , ' '); do
        path=$(find "$_d_kmoduledir/kernel" -name "${dep//_/[-_]}.ko*")
        [[ -n $path ]] && _modpaths[$path]=1 && _addedmodules[${dep//-/_}]=1
    done
done

# shellcheck source=/dev/null
. "$hookfile"
build
install_modules "${!_modpaths[@]}"
