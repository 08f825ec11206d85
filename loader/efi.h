/* SPDX-License-Identifier: MIT
 *
 * What the boot loader has left in EFI variables.
 */
#ifndef EFI_H
#define EFI_H

#include "device.h"

/* The PARTUUID of the partition that the boot loader was started from, if it has told; else false. */
bool find_boot_partition(const struct boot *boot, char uuid[UUID_ROOM]);
/* A variable of the boot loader's or of systemd's, by its name with the GUID; its length, or a negative errno. */
long read_efi_variable(const struct boot *boot, const char *name, u8 *data, size_t room);

#endif
