/* SPDX-License-Identifier: MIT
 *
 * What has been done so far, in the file `outcome` beside the plan: which PID 1 leaves for the keeper, and by which
 * megamod-ctl knows what a keeper that was killed had done. Structures as they are, since both programs are of one
 * build; numbers of stages, loads and members guard against another plan's file.
 */
#include "saved_state.h"
#include "files.h"
#include "log.h"

#define STATE_FILE "outcome"

struct saved_counts {
	u32 stages, loads, members, zero;
};

struct saved_stage {
	u32 state, fired;
};

struct saved_load {
	u64 nanoseconds;
	s32 error;
	u32 method;
};

struct saved_member {
	u64 nanoseconds;
	s32 result;
	u32 fate;
};

/* A mapping that has room for all of them, one after the other, and for read_small() to see the end; nothing in it
 * needs padding. */
struct saved_state {
	size_t size;
	struct saved_counts *counted;
	struct saved_stage *stages;
	struct saved_load *loads;
	struct saved_member *members;
};

static bool make_room(const struct plan *p, struct saved_state *o)
{
	o->size = sizeof(*o->counted) + p->stage_count * sizeof(*o->stages) + p->load_count * sizeof(*o->loads) +
		  p->member_count * sizeof(*o->members);
	o->counted = sys_map(o->size + 2);
	if (!o->counted)
		return false;
	o->stages = (struct saved_stage *)(o->counted + 1);
	o->loads = (struct saved_load *)(o->stages + p->stage_count);
	o->members = (struct saved_member *)(o->loads + p->load_count);
	return true;
}

void save_state(const struct boot *boot)
{
	const struct plan *p = &boot->plan;
	struct saved_state o;
	long err = -ENOMEM;
	u32 i;

	if (make_room(p, &o)) {
		*o.counted = (struct saved_counts){ p->stage_count, p->load_count, p->member_count, 0 };
		for (i = 0; i < p->stage_count; i++)
			o.stages[i] = (struct saved_stage){ p->stages[i].state, p->stages[i].fired };
		for (i = 0; i < p->load_count; i++)
			o.loads[i] =
				(struct saved_load){ p->loads[i].nanoseconds, p->loads[i].error, p->loads[i].method };
		for (i = 0; i < p->member_count; i++)
			o.members[i] = (struct saved_member){ p->members[i].nanoseconds, p->members[i].result,
							      p->members[i].fate };
		err = replace_file(boot->image, ".", STATE_FILE, (const char *)o.counted, o.size);
		sys_unmap(o.counted, o.size + 2);
	}
	if (err < 0)
		log_warning("/megamod/" STATE_FILE " cannot be written: %s", errno_name(err));
}

static bool is_sane(const struct plan *p, const struct saved_state *o)
{
	u32 i;

	if (o->counted->stages != p->stage_count || o->counted->loads != p->load_count ||
	    o->counted->members != p->member_count)
		return false;
	for (i = 0; i < p->stage_count; i++)
		if (o->stages[i].state > STATE_FAILED || o->stages[i].fired > TRIGGER_TIMEOUT)
			return false;
	return true;
}

bool restore_state(struct boot *boot)
{
	struct plan *p = &boot->plan;
	struct saved_state o;
	bool good;
	u32 i;

	if (!make_room(p, &o))
		return false;
	good = read_small(boot->image, STATE_FILE, (char *)o.counted, o.size + 2) == (long)o.size && is_sane(p, &o);
	for (i = 0; good && i < p->stage_count; i++) {
		p->stages[i].state = o.stages[i].state;
		p->stages[i].fired = o.stages[i].fired;
	}
	for (i = 0; good && i < p->load_count; i++) {
		p->loads[i].nanoseconds = o.loads[i].nanoseconds;
		p->loads[i].error = o.loads[i].error;
		p->loads[i].method = o.loads[i].method;
	}
	for (i = 0; good && i < p->member_count; i++) {
		p->members[i].nanoseconds = o.members[i].nanoseconds;
		p->members[i].result = o.members[i].result;
		p->members[i].fate = o.members[i].fate;
	}
	sys_unmap(o.counted, o.size + 2);
	return good;
}
