# shellcheck shell=bash
# A stand-in for mkinitcpio, which Debian does not have: what its install hooks may call (mkinitcpio(8), "BUILD HOOKS")
# and the order of its work, as v41 has it (mkinitcpio and functions there): the configuration is read, build hooks run
# with a MODULES of their own, the configuration's MODULES are added, modules copied, depmod run.
# mkinitcpio.bash HOOKFILE CONFIG BUILDROOT KERNELVERSION MODULE…: the modules are what hooks before it have added.
set -e
shopt -s extglob

hookfile=$1 config=$2 BUILDROOT=$3 KERNELVERSION=$4
shift 4
_optmoduleroot=${MODULES_ROOT:-}/
_d_kmoduledir=${_optmoduleroot%/}/lib/modules/$KERNELVERSION
declare -A _modpaths _addedmodules

plain() {
    # shellcheck disable=SC2059 # mkinitcpio's takes a format too
    printf "    $1\n" "${@:2}"
}

warning() {
    # shellcheck disable=SC2059
    printf "==> WARNING: $1\n" "${@:2}" >&2
}

error() {
    # shellcheck disable=SC2059
    printf "==> ERROR: $1\n" "${@:2}" >&2
}

add_file() {
    local src=$1 dest=${2:-$1} mode=${3:-644}
    [[ -e $src ]] || src=${FILES_ROOT:-}$src
    install -D -m "$mode" "$src" "$BUILDROOT$dest"
}

add_symlink() {
    mkdir -p "$BUILDROOT${1%/*}"
    ln -sfn "$2" "$BUILDROOT$1"
}

add_runscript() {
    install -D -m 644 "${RUNSCRIPT:?}" "$BUILDROOT/hooks/megamod"
}

add_module() {
    local target ign_errors=0 found=0 field value module deps
    [[ $1 != *\? ]] || ign_errors=1
    target=${1%\?} target=${target%.ko*} target=${target//-/_}
    [[ -z ${_addedmodules[$target]:-} ]] || return 0
    while IFS=':= ' read -r -d '' field value; do
        case $field in
            filename)
                if [[ $value == /* ]]; then
                    found=1 module=${value##*/} module=${module%.ko*}
                    _modpaths["$value"]=1
                    _addedmodules["${module//-/_}"]=1
                fi
                ;;
            depends)
                IFS=, read -r -a deps <<<"$value"
                for module in "${deps[@]}"; do
                    add_module "$module"
                done
                ;;
        esac
    done < <(modinfo -b "$_optmoduleroot" -k "$KERNELVERSION" -0 "$target" 2>/dev/null)
    if ((!found && !ign_errors)); then
        error "module not found: '%s'" "$target"
    fi
}

run_build_hook() {
    # shellcheck disable=SC2034
    local MODULES=() BINARIES=() FILES=() SCRIPT=''
    # shellcheck source=/dev/null
    . "$1"
    build
}

parse_config() {
    local module
    for module in "${MODULES[@]}"; do
        add_module "$module"
    done
}

install_modules() {
    local m destination=/lib/modules/$KERNELVERSION
    if (($# == 0)); then
        warning 'No modules were added to the image. This is probably not what you want.'
        return 0
    fi
    for m in "$@"; do
        add_file "$m" "$destination${m##*"$destination"}"
    done
    for m in builtin builtin.modinfo order; do
        add_file "$_d_kmoduledir/modules.$m" "$destination/modules.$m"
    done
    depmod -b "$BUILDROOT" "$KERNELVERSION"
    rm "$BUILDROOT$destination"/modules.!(*.bin|devname|softdep)
}

mkdir -p "$BUILDROOT/usr/lib/modules/$KERNELVERSION/kernel"
ln -sfn usr/lib "$BUILDROOT/lib"
ln -sfn lib "$BUILDROOT/usr/lib64"
printf '#!/bin/sh\n' >"$BUILDROOT/init"
# shellcheck source=/dev/null
. "$config"
for module in "$@"; do
    add_module "$module"
done

run_build_hook "$hookfile"
parse_config
install_modules "${!_modpaths[@]}"
