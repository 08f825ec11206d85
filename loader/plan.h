/* SPDX-License-Identifier: MIT
 *
 * The plan: what the builder wants loaded, in which stages, and how the boot goes on. The grammar's home is
 * initramfs/plan.py; this is its only consumer.
 */
#ifndef PLAN_H
#define PLAN_H

#include "text.h"

#define PLAN_PATH "/megamod/plan"

/* Below the handle boot->image, the folder /megamod of the image. */
#define IMAGE_FOLDER "/megamod/"

enum {
	MAX_STAGES = 64,
	VERITY_FIELDS = 8, /* of a verity record, options aside */
};

enum kind { KIND_NONE, KIND_NOW, KIND_USERSPACE, KIND_DELAY, KIND_PATH, KIND_IDLE, KIND_MANUAL, KIND_TIMEOUT };

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
};

/* A merged member or a single; its index is its plan id. */
struct member {
	const char *name;
	struct fields needs; /* plan ids of earlier members, decimal */
	enum fate fate;
	int result;	 /* of its init, or of its own call: 0 or a negative errno */
	u64 nanoseconds; /* of its own call; a merged member's are in its megamodule's parameters */
};

/* A file of the image. */
struct held {
	const char *path;
	int fd; /* held open by the keeper, else -1 */
};

enum way {
	WAY_NONE,      /* not tried yet */
	WAY_OWN,       /* by the load's own file */
	WAY_ORIGINALS, /* the fallback: its members' original files, one call each */
};

/* A path that has request_module() fail at once. */
#define NO_MODPROBE "\n"

/* One finit_module call. */
struct load {
	struct held file;
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
	enum way way;
	int error;	 /* of the call, positive */
	u64 nanoseconds; /* in its calls */
};

enum state { STATE_WAITING, STATE_LOADING, STATE_DONE, STATE_FAILED };

struct stage {
	const char *name, *path;
	enum kind kind;
	u64 milliseconds, timeout;
	u32 load, load_count;
	u64 needs; /* bit n: a member of stage n is needed */

	/* the course of events */
	enum state state;
	enum kind fired;  /* KIND_NONE until its trigger fires */
	u64 due, expires; /* monotonic ns, 0 none */
	int watch;	  /* inotify watch on the deepest existing folder, -1 none */
	u64 idle, total;  /* /proc/stat at the last look */
};

/* `dependents ID NAME…` */
struct dependents {
	u32 id;
	struct fields names;
};

enum handover { HAND_CMDLINE, HAND_EXEC, HAND_CHAIN };

struct plan {
	const char *release;
	enum handover handover;
	struct fields command; /* exec: path and arguments; chain: path */
	struct fields overlay; /* tmpfs and perhaps its options; count 0: none */
	struct fields verity;  /* see verity.c; count 0: none */
	bool async_probe;
	bool fallback; /* every megamodule has originals */
	struct stage stages[MAX_STAGES];
	struct load *loads;
	struct member *members;
	struct held *originals;
	const char **arguments, **prefixes, **softdeps, **skips;
	struct dependents *dependents;
	u32 stage_count, load_count, member_count, original_count, argument_count, prefix_count, softdep_count,
		skip_count, dependents_count;
};

const char *next_field(const char *field);
/* Reads and checks the whole plan, which is called `plan` below the handle. On failure it has said so (`megamod: error:
 * /megamod/plan:LINE: …`) and returns false. */
bool read_plan(int at, const char *path, struct plan *plan);
const char *kind_name(enum kind kind);
/* The stage that a plan id belongs to, as an index. */
u32 stage_of(const struct plan *plan, u32 id);

#endif
