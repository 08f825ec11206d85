/* SPDX-License-Identifier: MIT */
/*
 * Records a module's initcall level in its .modinfo, where megamod finds it: for modules that are built from source.
 *
 * include/linux/module.h makes every `*_initcall` of a module a module_init, so a .ko does not say at which level its
 * init would have run had it been linked into the kernel (6.1). With this header it does:
 *
 *     $ modinfo -F initlevel i2c-core.ko
 *     2
 *
 * It takes the place of linux/module.h, so that it is read wherever that is. (A plain -include would come before a
 * source's own `#define pr_fmt`.) Copy it as `linux/module.h` into a folder beside the sources,
 *
 *     install -D megamod-initlevel.h shadow/linux/module.h
 *
 * and have that folder searched before the kernel's, by a line in the module's Kbuild file:
 *
 *     NOSTDINC_FLAGS += -I$(src)/shadow
 */
#include_next <linux/module.h>

#ifndef MEGAMOD_INITLEVEL_H
#define MEGAMOD_INITLEVEL_H
#ifdef MODULE

/* The levels of include/linux/init.h; rootfs runs between fs and device. */
#define __megamod_initcall(fn, level) module_init(fn) MODULE_INFO(initlevel, level)

#undef early_initcall
#undef pure_initcall
#undef core_initcall
#undef core_initcall_sync
#undef postcore_initcall
#undef postcore_initcall_sync
#undef arch_initcall
#undef arch_initcall_sync
#undef subsys_initcall
#undef subsys_initcall_sync
#undef fs_initcall
#undef fs_initcall_sync
#undef rootfs_initcall
#undef device_initcall
#undef device_initcall_sync
#undef late_initcall
#undef late_initcall_sync

#define early_initcall(fn) __megamod_initcall(fn, "0")
#define pure_initcall(fn) __megamod_initcall(fn, "0")
#define core_initcall(fn) __megamod_initcall(fn, "1")
#define core_initcall_sync(fn) __megamod_initcall(fn, "1")
#define postcore_initcall(fn) __megamod_initcall(fn, "2")
#define postcore_initcall_sync(fn) __megamod_initcall(fn, "2")
#define arch_initcall(fn) __megamod_initcall(fn, "3")
#define arch_initcall_sync(fn) __megamod_initcall(fn, "3")
#define subsys_initcall(fn) __megamod_initcall(fn, "4")
#define subsys_initcall_sync(fn) __megamod_initcall(fn, "4")
#define fs_initcall(fn) __megamod_initcall(fn, "5")
#define fs_initcall_sync(fn) __megamod_initcall(fn, "5")
#define rootfs_initcall(fn) __megamod_initcall(fn, "5")
#define device_initcall(fn) __megamod_initcall(fn, "6")
#define device_initcall_sync(fn) __megamod_initcall(fn, "6")
#define late_initcall(fn) __megamod_initcall(fn, "7")
#define late_initcall_sync(fn) __megamod_initcall(fn, "7")

#endif /* MODULE */
#endif /* MEGAMOD_INITLEVEL_H */
