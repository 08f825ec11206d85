/* SPDX-License-Identifier: MIT
 *
 * See root_records.h. The grammar's home is initramfs/megamod/build/plan.py.
 */
#include "root_records.h"

bool refuse(struct reader *r, const char *problem, const char *detail)
{
	if (!r->problem) {
		r->problem = problem;
		r->detail = detail;
	}
	return false;
}

bool parse_plan_number(struct reader *r, const char *s, u64 *value)
{
	const char *at = s;

	if (!take_number(&at, value) || *at)
		return refuse(r, "not a decimal number:", s);
	return true;
}

bool on_root(struct reader *r, const char *const *f, struct fields rest)
{
	struct plan *p = r->plan;

	if (r->have_root)
		return refuse(r, "a second root record", NULL);
	r->have_root = true;
	p->command = rest;
	if (streq(f[0], "cmdline") && !rest.count)
		p->handover = HAND_CMDLINE;
	else if (streq(f[0], "exec") && rest.count)
		p->handover = HAND_EXEC;
	else if (streq(f[0], "chain") && rest.count == 1)
		p->handover = HAND_CHAIN;
	else
		return refuse(r, "unknown root record", f[0]);
	return true;
}

bool on_device(struct reader *r, const char *const *f, struct fields rest)
{
	(void)rest;
	r->plan->device.first = f[0];
	r->plan->device.count = 3;
	return true;
}

bool on_slot(struct reader *r, const char *const *f, struct fields rest)
{
	r->plan->slot.first = f[0];
	r->plan->slot.count = 1 + rest.count;
	return true;
}

bool on_before_mount(struct reader *r, const char *const *f, struct fields rest)
{
	u64 milliseconds;

	r->plan->before.first = f[0];
	r->plan->before.count = 2 + rest.count;
	return parse_plan_number(r, f[0], &milliseconds);
}

bool on_failure(struct reader *r, const char *const *f, struct fields rest)
{
	(void)rest;
	r->plan->on_failure = streq(f[0], "reboot") ? FAIL_RESTART : FAIL_PANIC;
	return streq(f[0], "reboot") || streq(f[0], "panic") || refuse(r, "unknown on-failure record", f[0]);
}

bool on_overlay(struct reader *r, const char *const *f, struct fields rest)
{
	r->plan->overlay.first = f[0];
	r->plan->overlay.count = 1 + rest.count;
	return (streq(f[0], "tmpfs") && rest.count < 2) || (streq(f[0], "device") && rest.count == 6) ||
	       refuse(r, "unknown overlay", f[0]);
}

static bool take_verity(struct reader *r, const char *const *f, struct fields rest, struct fields *verity)
{
	u64 number;

	verity->first = f[0];
	verity->count = VERITY_FIELDS + rest.count;
	return parse_plan_number(r, f[2], &number) && parse_plan_number(r, f[3], &number) &&
	       parse_plan_number(r, f[4], &number) && parse_plan_number(r, f[5], &number);
}

bool on_verity(struct reader *r, const char *const *f, struct fields rest)
{
	return take_verity(r, f, rest, &r->plan->verity);
}

bool on_slot_verity(struct reader *r, const char *const *f, struct fields rest)
{
	struct slot_verity *s = &r->plan->slot_verity[r->plan->slot_verity_count];

	if (r->plan->slot_verity_count == MAX_SLOTS)
		return refuse(r, "more than 4 slots", NULL);
	r->plan->slot_verity_count++;
	s->slot = f[0];
	return take_verity(r, f + 1, rest, &s->verity);
}
