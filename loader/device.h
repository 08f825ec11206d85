/* SPDX-License-Identifier: MIT
 *
 * Block devices, as root= names them.
 */
#ifndef DEVICE_H
#define DEVICE_H

#include "boot.h"

/* The name below /dev of the device that root= means, or -ENODEV. Slashes of the name are in it. */
long find_device(const struct boot *boot, const char *wanted, char *name, size_t room);
/* The names of all block devices, separated by spaces. */
void list_devices(const struct boot *boot, struct text *names);

#endif
