/* SPDX-License-Identifier: MIT
 *
 * dm-verity under the root file system.
 */
#ifndef VERITY_H
#define VERITY_H

#include "boot.h"

/* Makes a dm-verity device over the one called `data` below /dev, as the plan wants it. Its own name below /dev
 * replaces that. -ENODEV: the hash device is not there yet; else it has logged why. */
long open_verity(const struct boot *boot, char *data, size_t room);

#endif
