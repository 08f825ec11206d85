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

/* Is the plan's root hash that of roothash=, and is there one? If not, why has been logged. */
bool check_root_hash(const struct boot *boot);
/* The root as its hash names it; false if it has another name. */
bool put_hashed_root(const struct boot *boot, char *to, size_t room);

#endif
