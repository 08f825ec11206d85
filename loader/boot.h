/* SPDX-License-Identifier: MIT
 *
 * What every part of the loader works on: the plan and its course, the command line, and handles on the four file
 * systems. Everything is reached through the handles, so it makes no difference where these are mounted by then.
 */
#ifndef BOOT_H
#define BOOT_H

#include "cmdline.h"
#include "plan.h"

/* How long to wait for a keeper to be ready; it needs about a millisecond. */
enum { KEEPER_SECONDS = 5 };

struct boot {
	int argc;
	char **argv, **envp;
	int dev, proc, sys, run; /* folders, or a negative errno each */
	int image;		 /* /megamod, where plan and files lie */
	int alive;		 /* its closing tells the keeper that init was executed; -1 without a keeper */
	int ready;   /* its end tells that the keeper's mask, status and control are there; -1: no waiting */
	bool first;  /* this is process 1, or a child of it */
	int control; /* the keeper's FIFO, -1 none */
	int token;   /* a pipe with one byte: who reads it goes on with the critical stage; -1 none */
	int probes;  /* its end tells that the critical stage's probes are over; -1 none */
	void (*report)(struct boot *boot); /* what the keeper does after a stage; NULL in process 1 */
	bool kept;			   /* the keeper needs /megamod, and empties it */
	char cmdline[CMDLINE_ROOM];
	struct options options;
	struct plan plan;
};

/* Handles that the keeper is started with, by their numbers: far from those that the loader has open. */
enum passed { PASS_DEV = 64, PASS_PROC, PASS_SYS, PASS_RUN, PASS_IMAGE, PASS_ALIVE, PASS_READY, PASS_PROBES };

/* The stages after the critical one are [first_deferred, end_of_stages). */
static inline struct stage *first_deferred(struct boot *boot)
{
	return boot->plan.stages + 1;
}

static inline struct stage *end_of_stages(struct boot *boot)
{
	return boot->plan.stages + boot->plan.stage_count;
}

static inline struct member *members_of(struct boot *boot, const struct load *load)
{
	return boot->plan.members + load->member;
}

#endif
