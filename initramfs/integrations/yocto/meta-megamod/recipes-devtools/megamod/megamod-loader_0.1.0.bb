# The loader's two programs for the target, compiled by the target's compiler.
SUMMARY = "The programs that megamod puts into images"
require megamod.inc

MEGAMOD_ARCH = "${@megamod_arch(d)}"
def megamod_arch(d):
    arch = d.getVar('TARGET_ARCH')
    return {'x86_64': 'x86_64', 'aarch64': 'aarch64', 'arm': 'arm', 'riscv64': 'riscv64'}.get(arch, '')

python () {
    if not d.getVar('MEGAMOD_ARCH'):
        raise bb.parse.SkipRecipe("megamod has no loader for %s" % d.getVar('TARGET_ARCH'))
}

# Freestanding: none of the flags of programs with a C library.
MEGAMOD_CFLAGS = "-std=gnu11 -Os -g0 -ffreestanding -fno-builtin -fno-stack-protector -fno-pie \
    -fno-asynchronous-unwind-tables -fno-unwind-tables -ffunction-sections -fdata-sections"
MEGAMOD_LDFLAGS = "-nostdlib -static -no-pie -Wl,--gc-sections -Wl,-z,noexecstack -Wl,-z,noseparate-code \
    -Wl,--build-id=none -s"
MEGAMOD_CFLAGS:append:x86-64 = " -mgeneral-regs-only"
MEGAMOD_CFLAGS:append:aarch64 = " -mgeneral-regs-only"
MEGAMOD_CFLAGS:append:riscv64 = " -mno-relax"
MEGAMOD_LDFLAGS:append:aarch64 = " -Wl,-z,max-page-size=65536"

do_configure[noexec] = "1"

do_compile() {
    cd ${S}/loader
    for program in init ctl; do
        case $program in
        init) other=ctl.c ;;
        ctl) other=init.c ;;
        esac
        sources=
        for source in *.c; do
            [ "$source" = "$other" ] || sources="$sources $source"
        done
        ${CC} ${MEGAMOD_CFLAGS} -I. -o ${B}/$program $sources ${MEGAMOD_LDFLAGS}
    done
}

do_install() {
    install -d ${D}${datadir}/megamod/loaders/${MEGAMOD_ARCH}
    install -m 0755 ${B}/init ${B}/ctl ${D}${datadir}/megamod/loaders/${MEGAMOD_ARCH}/
}

SYSROOT_DIRS += "${datadir}/megamod"
FILES:${PN} = "${datadir}/megamod"
# They are static and stripped by design.
INSANE_SKIP:${PN} += "already-stripped ldflags"
INHIBIT_PACKAGE_STRIP = "1"
INHIBIT_PACKAGE_DEBUG_SPLIT = "1"
