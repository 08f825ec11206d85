/* SPDX-License-Identifier: MIT
 *
 * The plan: what the builder wants loaded, in which stages, and how the boot goes on. The grammar's home is
 * initramfs/megamod/build/plan.py; read_plan.c is its only consumer.
 */
#ifndef PLAN_H
#define PLAN_H

#include "text.h"

/* Below the handle boot->image, the folder /megamod of the image. */
#define IMAGE_FOLDER "/megamod/"

enum {
	MAX_STAGES = 64,
	WATCHDOG_SECONDS = 30, /* if the plan does not say */
	VERITY_FIELDS = 8,     /* of a verity record, options aside */
	MAX_SLOTS = 4,
};

enum trigger {
	TRIGGER_NONE,
	TRIGGER_NOW,
	TRIGGER_USERSPACE,
	TRIGGER_DELAY,
	TRIGGER_PATH,
	TRIGGER_IDLE,
	TRIGGER_MANUAL,
	TRIGGER_TIMEOUT,
};

/* Words of one record, one after the other, each ended by NUL. */
struct fields {
	const char *first;
	u32 count;
};

enum fate {
	FATE_PENDING, /* not tried yet */
	FATE_OK,
	FATE_FAILED,
	FATE_ASKED, /* left out by megamod.skip= */
	FATE_NEEDS, /* left out because something that it needs is not there */
	FATE_SHUT,  /* its init is over, but nobody can use its symbols: its megamodule stays in state coming */
};

/* A merged member or a single; its index is its plan id. */
struct member {
	const char *name;
	struct fields needs;	  /* plan ids of earlier members, decimal */
	struct fields parameters; /* NAME=KIND each, see parameters.h */
	enum fate fate;
	int result;	 /* of its init, or of its own call: 0 or a negative errno */
	u64 nanoseconds; /* of its own call; a merged member's are in its megamodule's parameters */
};

/* A file of the image. */
struct image_file {
	const char *path;
	int fd; /* held open by the keeper, else -1 */
};

enum load_method {
	METHOD_NONE,	  /* not tried yet */
	METHOD_OWN,	  /* by the load's own file */
	METHOD_ORIGINALS, /* the fallback: its members' original files, one call each */
};

/* A path that has request_module() fail at once. */
#define NO_MODPROBE "\n"

/* One finit_module call. */
struct load {
	struct image_file file;
	struct image_file
		names; /* what makes the file fit any kernel but one (names_form.h); its path is NULL without */
	const char *name;
	bool merged;
	bool results;	      /* it has result parameters and takes skip= */
	const char *modprobe; /* request_module may be called in an init: what it calls meanwhile; NULL */
	bool original;	      /* a member of a megamodule by itself: its arguments lose `member.` */
	u32 member, member_count;
	u32 argument, argument_count;  /* into plan.arguments */
	u32 prefix, prefix_count;      /* into plan.prefixes */
	u32 originals, original_count; /* into plan.originals, one a member or none */

	/* the course of events */
	enum load_method method;
	bool resuming;	 /* an init was hit, and the others are run by the parameter resume */
	int error;	 /* of the call, positive */
	u64 nanoseconds; /* in its calls */
};

enum stage_state { STATE_WAITING, STATE_LOADING, STATE_DONE, STATE_FAILED };

struct stage {
	const char *name, *path;
	enum trigger trigger;
	u64 milliseconds, timeout;
	u32 load, load_count;
	u64 needs; /* bit n: a member of stage n is needed */

	/* the course of events */
	enum stage_state state;
	enum trigger fired; /* TRIGGER_NONE until its trigger fires */
	u64 due, expires;   /* monotonic ns, 0 none */
	int watch;	    /* inotify watch on the deepest existing folder, -1 none */
	u64 idle, total;    /* /proc/stat at the last look */
};

/* `dependents ID NAME…` */
struct dependents {
	u32 id;
	struct fields names;
};

enum handover { HAND_CMDLINE, HAND_EXEC, HAND_CHAIN };

/* Where the loading stands: shared by the processes that do it. */
struct progress {
	u32 stage;	    /* its index in the plan */
	u32 load, original; /* that of the load; with METHOD_ORIGINALS that of the member in the load */
	u32 finished;	    /* members of the load whose init is over, as last counted */
	u64 began;	    /* monotonic ns, when the load was begun */
	bool locked;	    /* the kernel can load nothing any more */
	bool exchanged;	    /* /proc/sys/kernel/modprobe is not what it was, which is: */
	char modprobe[256];
};

enum on_failure { FAIL_SHELL, FAIL_PANIC, FAIL_RESTART };

/* The hash tree of one slot's root. */
struct slot_verity {
	const char *slot;
	struct fields verity;
};

struct plan {
	struct progress *progress;
	const char *release, *build_id; /* of the kernel; build_id NULL if no load is for one build alone */
	enum handover handover;
	struct fields command; /* exec: path and arguments; chain: path */
	struct fields device;  /* of the root, its type and options, "-" each for none; count 0: none */
	struct fields slot;    /* words of the command line that name it */
	struct fields before;  /* milliseconds and a program that runs before the mount; count 0: none */
	struct fields overlay; /* see overlay.c; count 0: none */
	struct fields verity;  /* see verity.c; count 0: none */
	struct slot_verity slot_verity[MAX_SLOTS];
	u32 slot_verity_count;
	enum on_failure on_failure;
	bool async_probe, no_probe_wait;
	u64 watchdog;  /* seconds without progress after which a call is given up; 0 never */
	bool no_shell; /* nobody gets a shell */
	bool fallback; /* every megamodule has originals */
	struct stage stages[MAX_STAGES];
	struct load *loads;
	struct member *members;
	struct image_file *originals;
	const char **arguments, **prefixes, **softdeps, **skips;
	struct dependents *dependents;
	u32 stage_count, load_count, member_count, original_count, argument_count, prefix_count, softdep_count,
		skip_count, dependents_count;
};

/* Waits for its trigger. */
static inline bool is_pending(const struct stage *s)
{
	return s->state == STATE_WAITING && s->fired == TRIGGER_NONE;
}

/* Its init is over, and was no failure. */
static inline bool has_run(const struct member *m)
{
	return m->fate == FATE_OK || m->fate == FATE_SHUT;
}

const char *next_field(const char *field);
/* Field `n` from 0, or "" if there are fewer or it is `-`. */
const char *field_at(struct fields fields, u32 n);
const char *trigger_name(enum trigger trigger);
const char *stage_state_name(enum stage_state state);
/* The stage that a plan id belongs to, as an index. */
u32 stage_of(const struct plan *plan, u32 id);

#endif
