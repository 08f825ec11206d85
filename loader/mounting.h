/* SPDX-License-Identifier: MIT
 *
 * Mounting one file system whose device may not be there yet: what it is, whether it may be mounted, how.
 */
#ifndef MOUNTING_H
#define MOUNTING_H

#include "device.h"

enum { WAIT_SECONDS = 30 }; /* without rootwait: longer than a slow USB disk takes */

struct mounting {
	struct boot *boot;
	const char *what, *target; /* "root", where to */
	const char *wanted;	   /* as root= has it */
	const char *types;	   /* separated by commas; "" if what is on the device decides */
	bool discover;		   /* the root is the partition that is marked as one */
	bool usr;		   /* no verity is under it */
	bool writable;		   /* whatever the command line says of the root */
	char source[VALUE_ROOM];   /* what mount() gets */
	u32 flags;
	char data[VALUE_ROOM]; /* options without the words that became flags */
	long error;	       /* of the last attempt */
	bool logged;	       /* why it failed */
	u32 here, devices;     /* of a file system on several devices that are not all there; else 0 */
	bool coming;	       /* its driver, in a deferred stage */
	bool last;	       /* nobody waits any longer */
};

/*
 * Mounts it as soon as its device is there, for which `seconds` are waited (0: for ever); false after it has logged
 * why. `options` are as in fstab.
 */
bool mount_when_there(struct mounting *m, const char *options, u64 seconds);

#endif
