/* SPDX-License-Identifier: MIT
 *
 * What has been done so far, in the file `outcome` beside the plan: how PID 1 tells the keeper, and how megamod-ctl
 * knows what a keeper that was killed had done. Structures as they are, since both programs are of one build; numbers
 * of stages, loads and members guard against another plan's file.
 */
#include "boot.h"
#include "say.h"

#define OUTCOME "outcome"

struct counted {
	u32 stages, loads, members, zero;
};

struct stage_outcome {
	u32 state, fired;
};

struct load_outcome {
	u64 nanoseconds;
	s32 error;
	u32 way;
};

struct member_outcome {
	u64 nanoseconds;
	s32 result;
	u32 fate;
};

/* A mapping that has room for all of them, one after the other, and for read_small() to see the end; nothing in it
 * needs padding. */
struct outcome {
	size_t size;
	struct counted *counted;
	struct stage_outcome *stages;
	struct load_outcome *loads;
	struct member_outcome *members;
};

static bool make_room(const struct plan *p, struct outcome *o)
{
	o->size = sizeof(*o->counted) + p->stage_count * sizeof(*o->stages) + p->load_count * sizeof(*o->loads) +
		  p->member_count * sizeof(*o->members);
	o->counted = sys_map(o->size + 2);
	if (!o->counted)
		return false;
	o->stages = (struct stage_outcome *)(o->counted + 1);
	o->loads = (struct load_outcome *)(o->stages + p->stage_count);
	o->members = (struct member_outcome *)(o->loads + p->load_count);
	return true;
}

void save_outcome(const struct boot *boot)
{
	const struct plan *p = &boot->plan;
	struct outcome o;
	long err = -ENOMEM;
	u32 i;

	if (make_room(p, &o)) {
		*o.counted = (struct counted){ p->stage_count, p->load_count, p->member_count, 0 };
		for (i = 0; i < p->stage_count; i++)
			o.stages[i] = (struct stage_outcome){ p->stages[i].state, p->stages[i].fired };
		for (i = 0; i < p->load_count; i++)
			o.loads[i] =
				(struct load_outcome){ p->loads[i].nanoseconds, p->loads[i].error, p->loads[i].way };
		for (i = 0; i < p->member_count; i++)
			o.members[i] = (struct member_outcome){ p->members[i].nanoseconds, p->members[i].result,
								p->members[i].fate };
		err = replace_file(boot->image, ".", OUTCOME, (const char *)o.counted, o.size);
		sys_unmap(o.counted, o.size + 2);
	}
	if (err < 0)
		warn("/megamod/" OUTCOME " cannot be written: %s", errno_name(err));
}

static bool is_sane(const struct plan *p, const struct outcome *o)
{
	u32 i;

	if (o->counted->stages != p->stage_count || o->counted->loads != p->load_count ||
	    o->counted->members != p->member_count)
		return false;
	for (i = 0; i < p->stage_count; i++)
		if (o->stages[i].state > STATE_FAILED || o->stages[i].fired > KIND_TIMEOUT)
			return false;
	return true;
}

bool restore_outcome(struct boot *boot)
{
	struct plan *p = &boot->plan;
	struct outcome o;
	bool good;
	u32 i;

	if (!make_room(p, &o))
		return false;
	good = read_small(boot->image, OUTCOME, (char *)o.counted, o.size + 2) == (long)o.size && is_sane(p, &o);
	for (i = 0; good && i < p->stage_count; i++) {
		p->stages[i].state = o.stages[i].state;
		p->stages[i].fired = o.stages[i].fired;
	}
	for (i = 0; good && i < p->load_count; i++) {
		p->loads[i].nanoseconds = o.loads[i].nanoseconds;
		p->loads[i].error = o.loads[i].error;
		p->loads[i].way = o.loads[i].way;
	}
	for (i = 0; good && i < p->member_count; i++) {
		p->members[i].nanoseconds = o.members[i].nanoseconds;
		p->members[i].result = o.members[i].result;
		p->members[i].fate = o.members[i].fate;
	}
	sys_unmap(o.counted, o.size + 2);
	return good;
}
