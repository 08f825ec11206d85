# An initramfs image by megamod: modules and kernel from the build's deploy folder, a profile of yours.
#
# MEGAMOD_PROFILE        the profile, a file in SRC_URI or an absolute path; or the name of a shipped one
# MEGAMOD_FIRMWARE_DIR   where firmware is looked for; default: none is
# MEGAMOD_FIT            "1": a FIT image with kernel, initramfs and KERNEL_DEVICETREE's trees, too
# MEGAMOD_UKI            "1": an EFI program with kernel and initramfs, too (needs systemd-boot's stub)
# MEGAMOD_CMDLINE        the kernel command line of the EFI program
# MEGAMOD_EXTRA_ARGS     further options of `megamod build`
#
# The result is ${DEPLOY_DIR_IMAGE}/${MEGAMOD_IMAGE_NAME}.img, with .map beside it, and .itb or .efi.

inherit deploy kernel-artifact-names

MEGAMOD_PROFILE ?= "vm"
MEGAMOD_FIRMWARE_DIR ?= ""
MEGAMOD_FIT ?= "0"
MEGAMOD_UKI ?= "0"
MEGAMOD_CMDLINE ?= ""
MEGAMOD_EXTRA_ARGS ?= ""
MEGAMOD_IMAGE_NAME ?= "megamod-${MACHINE}"

INHIBIT_DEFAULT_DEPS = "1"
DEPENDS += "megamod-native megamod-loader kmod-native"
PACKAGE_ARCH = "${MACHINE_ARCH}"

do_compile[depends] += "virtual/kernel:do_deploy virtual/kernel:do_shared_workdir"
do_compile[depends] += "${@'systemd-boot:do_deploy' if d.getVar('MEGAMOD_UKI') == '1' else ''}"

megamod_tree() {
    rm -rf ${B}/tree
    mkdir -p ${B}/tree
    [ -e ${DEPLOY_DIR_IMAGE}/modules-${MODULE_TARBALL_LINK_NAME}.tgz ] ||
        bbfatal "no modules-${MODULE_TARBALL_LINK_NAME}.tgz: set MODULE_TARBALL_DEPLOY = \"1\" for the kernel"
    tar -xzf ${DEPLOY_DIR_IMAGE}/modules-${MODULE_TARBALL_LINK_NAME}.tgz -C ${B}/tree
    [ -e ${B}/tree/usr/lib/modules ] || [ -e ${B}/tree/lib/modules ] || bbfatal "the kernel has no modules"
    # Next to its modules the kernel is found: exports and configuration are read from it.
    for folder in ${B}/tree/lib/modules/* ${B}/tree/usr/lib/modules/*; do
        [ -d "$folder" ] || continue
        cp ${DEPLOY_DIR_IMAGE}/${KERNEL_IMAGETYPE} "$folder/vmlinuz"
        cp ${STAGING_KERNEL_BUILDDIR}/.config "$folder/config"
    done
}

do_compile() {
    megamod_tree
    export MEGAMOD_LOADERS=${STAGING_DATADIR}/megamod/loaders
    export XDG_CACHE_HOME=${WORKDIR}/cache
    profile=${MEGAMOD_PROFILE}
    [ ! -e "${UNPACKDIR}/$profile" ] || profile=${UNPACKDIR}/$profile
    image=${B}/${MEGAMOD_IMAGE_NAME}
    megamod build "$profile" -k ${B}/tree -o $image.img \
        ${@'--firmware-dir ' + d.getVar('MEGAMOD_FIRMWARE_DIR') if d.getVar('MEGAMOD_FIRMWARE_DIR') else ''} \
        ${MEGAMOD_EXTRA_ARGS}
    if [ "${MEGAMOD_FIT}" = 1 ]; then
        trees=
        for tree in ${KERNEL_DEVICETREE}; do
            trees="$trees --dtb ${DEPLOY_DIR_IMAGE}/$(basename $tree)"
        done
        megamod fit $image.img --vmlinuz ${DEPLOY_DIR_IMAGE}/${KERNEL_IMAGETYPE} $trees -o $image.itb
    fi
    if [ "${MEGAMOD_UKI}" = 1 ]; then
        megamod uki $image.img --vmlinuz ${DEPLOY_DIR_IMAGE}/${KERNEL_IMAGETYPE} \
            --stub $(ls ${DEPLOY_DIR_IMAGE}/linux*.efi.stub | head -n 1) --cmdline "${MEGAMOD_CMDLINE}" -o $image.efi
    fi
}

do_install[noexec] = "1"

do_deploy() {
    for file in ${B}/${MEGAMOD_IMAGE_NAME}.*; do
        install -m 0644 "$file" ${DEPLOYDIR}/
    done
}
addtask deploy after do_compile before do_build
