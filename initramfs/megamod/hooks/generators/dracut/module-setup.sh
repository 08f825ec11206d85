#!/bin/bash
# This file is part of megamod. It has dracut's images load their drivers in one call.
# What it does and how it is taken back: megamod's initramfs/megamod/hooks/README.md.
# shellcheck disable=SC2154 # initdir, kernel, srcmods, moddir and systemdsystemunitdir are dracut's
# shellcheck disable=SC2317 # and so is whoever calls these functions

# called by dracut
check() {
    [[ -r /etc/megamod/hooks/dracut.conf ]] || return 255
    return 0
}

# called by dracut
depends() {
    return 0
}

# called by dracut
install() {
    # With rdinit=/megamod-init on its command line the kernel would not find its way into an image without it.
    [[ -e $initdir/megamod-init ]] || ln -s init "$initdir/megamod-init"
}

# called by dracut
installkernel() {
    _megamod_dir=$moddir
    # add_drivers=, force_drivers= and filesystems= are installed after all modules of dracut, so the work is put
    # in front of what comes after those.
    if declare -F dracut_kernel_post > /dev/null; then
        eval "_megamod_$(declare -f dracut_kernel_post)"
        dracut_kernel_post() {
            _megamod_merge
            _megamod_dracut_kernel_post
        }
    else
        _megamod_merge
    fi
    return 0
}

_megamod_merge() {
    local guard=/etc/megamod/hooks/dracut.run
    if [[ ! -x $guard ]]; then
        dwarn "megamod: the image is as dracut made it: $guard is not there"
    elif ! "$guard" dracut "$initdir" "$kernel" "$srcmods"; then
        # Only where MEGAMOD_STRICT asks for that.
        dfatal "megamod failed"
        exit 1
    fi
    [[ -e $initdir/megamod/plan ]] || return 0
    # Without rdinit= these do it.
    if dracut_module_included "systemd"; then
        inst_simple "$_megamod_dir/megamod-load.service" "$systemdsystemunitdir/megamod-load.service"
        mkdir -p "$initdir$systemdsystemunitdir/sysinit.target.wants"
        ln -sf ../megamod-load.service "$initdir$systemdsystemunitdir/sysinit.target.wants/megamod-load.service"
    else
        inst_hook pre-udev 10 "$_megamod_dir/megamod-load.sh"
    fi
}
