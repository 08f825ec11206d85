/* SPDX-License-Identifier: MIT
 *
 * From what root= says to one device.
 */
#ifndef FIND_H
#define FIND_H

#include "scan.h"

enum use {
	USE_MOUNT, /* of several matches those that can be mounted are meant */
	USE_RAW,
};

/*
 * The device that `wanted` means, by its name in sysfs. -ENODEV: not there yet; -EINVAL: no form of a device's name;
 * -EPERM: several look the same, which has been said.
 */
long find_device(const struct boot *boot, const char *wanted, enum use use, char name[NAME_ROOM]);
/* All devices of a file system that says it is made of several; valid until the next search. */
const struct matches *find_siblings(const struct boot *boot, const struct superblock *s);
/* Why waiting for this device would be in vain, or NULL. `any_source`: it need not be a device. */
const char *refusal_of(const struct boot *boot, const char *wanted, bool any_source);
/* What a word on the command line asks for and does not get, and that word; NULL if there is none. */
const char *limit_on_command_line(const struct boot *boot, struct text *asked);
/* Adds " NAME" or " NAME (TYPE)" for each device. */
void list_contents(const struct boot *boot, struct text *names);
/* Adds what the devices are that are parts of something; how many there are. */
u32 list_members(const struct boot *boot, struct text *names);

#endif
