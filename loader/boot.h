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
	int dev, proc, sys, run; /* folders, or a negative errno each */
	int image;		 /* /megamod, where plan and files lie */
	int alive;		 /* its closing tells the keeper that init was executed; -1 without a keeper */
	int ready;		 /* its end tells that the keeper has written mask and status; -1: no waiting */
	bool kept;		 /* the keeper needs /megamod, and empties it */
	char cmdline[CMDLINE_ROOM];
	struct options options;
	struct plan plan;
};

/* Handles that the keeper is started with, by their numbers: far from those that the loader has open. */
enum passed { PASS_DEV = 64, PASS_PROC, PASS_SYS, PASS_RUN, PASS_IMAGE, PASS_ALIVE, PASS_READY };

/* load.c: every load of a stage, with its results; says the stage's lines. */
void load_stage(struct boot *boot, struct stage *stage, enum kind fired);
/* A handle on a file of the image, the one that is held if there is one, or a negative errno. */
long open_held(const struct boot *boot, const struct held *file);
/* The file is not needed again: its memory goes back to the kernel. */
void drop_file(const struct boot *boot, struct held *file);

/* What became of a load or a stage. */
struct counts {
	u32 ok, failed, skipped;
	bool originals;	 /* some of it came by the fallback */
	int error;	 /* of the first call that failed, positive */
	u64 nanoseconds; /* in calls */
};

void add_counts(const struct boot *boot, const struct load *load, struct counts *counts);
void count_stage(const struct boot *boot, const struct stage *stage, struct counts *counts);

/* times.c: with megamod.times, a line with the time that the processors have been in use. */
void say_used(const struct boot *boot);

/* results.c: the name of something with an id below the limit that m needs and that is not there, or NULL. */
const char *missing_for(const struct boot *boot, const struct member *m, u64 limit);

/* What has been loaded of a stage before this program ran, by this loader or by modprobe: sets the fates and returns
 * true if there is any of it. */
bool find_loaded(struct boot *boot, struct stage *stage);

/* mask.c: writes /run/modprobe.d/megamod.conf anew, as the fates are now; `waiting`: with what needs a member to come.
 */
void write_mask(const struct boot *boot, bool waiting);

/* status.c: writes /run/megamod/status anew. */
void write_status(const struct boot *boot);
const char *state_name(enum state state);
/* Replaces a file below the handle whole: makes `folder`, writes `folder/name`, by way of a temporary file. */
long replace_file(int at, const char *folder, const char *name, const char *data, size_t size);

/* device.c: the name below /dev of the device that root= means, or -ENODEV. Slashes of the name are in it. */
long find_device(const struct boot *boot, const char *wanted, char *name, size_t room);
/* The names of all block devices, separated by spaces. */
void list_devices(const struct boot *boot, struct text *names);

/* root.c: mounts the root file system at /root, with what lies over and under it; on failure it has said why. */
bool mount_root(struct boot *boot, bool hurry);

/* verity.c: makes a dm-verity device over the one called `data` below /dev, as the plan says. Its own name below /dev
 * replaces that. -ENODEV: the hash device is not there yet; else it has said why. */
long open_verity(const struct boot *boot, char *data, size_t room);

/* overlay.c: puts a writable layer over what is mounted at /root; on failure it has said why, and /root is empty. */
bool cover_root(const struct boot *boot);

/* switch.c: both return only if they fail, and have said why. */
void switch_root(struct boot *boot);
void execute(struct boot *boot, struct fields command, bool forward);

/* shell.c */
bool have_shell(void);
void run_shell(const struct boot *boot);

/* start.c: starts /megamod/ctl as the stage keeper, if the image has it. */
void start_keeper(struct boot *boot);
/* Returns when mask and status are written. */
void wait_for_keeper(struct boot *boot);

/* outcome.c: what has been done so far, for another process that has read the same plan. */
void save_outcome(const struct boot *boot);
bool restore_outcome(struct boot *boot);

#endif
