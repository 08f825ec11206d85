/* SPDX-License-Identifier: MIT
 *
 * What every part of the loader works on: the plan and its course, the command line, and handles on the four file
 * systems. Everything is reached through the handles, so it makes no difference where these are mounted by then.
 */
#ifndef BOOT_H
#define BOOT_H

#include "cmdline.h"
#include "plan.h"

struct boot {
	int argc;
	char **argv, **envp;
	int dev, proc, sys, run;	/* folders, or a negative errno each */
	int alive;			/* its closing tells the keeper that init was executed; -1 without a keeper */
	char cmdline[CMDLINE_ROOM];
	struct options options;
	struct plan plan;
};

/* load.c: every load of a stage, with its results; says the stage's lines. */
void load_stage(struct boot *boot, struct stage *stage, enum kind fired);

/* mask.c: writes /run/modprobe.d/megamod.conf anew, as the fates are now. */
void write_mask(const struct boot *boot);

/* status.c: writes /run/megamod/status anew. */
void write_status(const struct boot *boot);
/* Replaces a file below the handle whole: makes `folder`, writes `folder/name`, by way of a temporary file. */
long replace_file(int at, const char *folder, const char *name, const char *data, size_t size);

/* device.c: the name below /dev of the device that root= means, or -ENODEV. Slashes of the name are in it. */
long find_device(const struct boot *boot, const char *wanted, char *name, size_t room);
/* The names of all block devices, separated by spaces. */
void list_devices(const struct boot *boot, struct text *names);

/* root.c: mounts the root file system at /root; on failure it has said why. */
bool mount_root(struct boot *boot, bool hurry);

/* switch.c: both return only if they fail, and have said why. */
void switch_root(struct boot *boot);
void execute(struct boot *boot, struct fields command, bool forward);

/* shell.c */
bool have_shell(void);
void run_shell(const struct boot *boot);

/* keeper.c: forks the stage keeper if there is something left to load. */
void start_keeper(struct boot *boot);

#endif
