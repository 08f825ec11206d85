/* SPDX-License-Identifier: MIT
 *
 * See plan.h.
 */
#include "plan.h"

const char *next_field(const char *field)
{
	return field + length(field) + 1;
}

u32 stage_of(const struct plan *p, u32 id)
{
	u32 i;
	const struct stage *s;
	const struct load *l;

	for (i = 0; i + 1 < p->stage_count; i++) {
		s = &p->stages[i];
		if (!s->load_count)
			continue;
		l = &p->loads[s->load + s->load_count - 1];
		if (id < l->member + l->member_count)
			break;
	}
	return i;
}

const char *field_at(struct fields f, u32 n)
{
	if (n >= f.count)
		return "";
	while (n--)
		f.first = next_field(f.first);
	return streq(f.first, "-") ? "" : f.first;
}

const char *trigger_name(enum trigger trigger)
{
	static const char *const names[] = { "-", "now", "userspace", "delay", "path", "idle", "manual", "timeout" };

	return names[trigger];
}

const char *stage_state_name(enum stage_state state)
{
	static const char *const names[] = { "waiting", "loading", "done", "failed" };

	return names[state];
}
