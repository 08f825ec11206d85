/* SPDX-License-Identifier: MIT
 *
 * The records of the plan: what each may hold, where it may stand, and what it adds to the tables. See plan.h.
 */
#include "plan_records.h"
#include "root_records.h"

static struct stage *last_stage(struct plan *p)
{
	return &p->stages[p->stage_count - 1];
}

static struct load *last_load(struct plan *p)
{
	return p->stage_count && last_stage(p)->load_count ? &p->loads[p->load_count - 1] : NULL;
}

/* The ids that a new member of the last load needs must be those of earlier members, of that load or another. */
static bool check_needs(struct reader *r, struct fields needs)
{
	struct plan *p = r->plan;
	u32 i;
	u64 id;

	for (i = 0; i < needs.count; i++, needs.first = next_field(needs.first)) {
		if (!parse_plan_number(r, needs.first, &id))
			return false;
		if (id >= p->member_count)
			return refuse(r, "not the id of an earlier member:", needs.first);
		if (id < last_load(p)->member)
			last_stage(p)->needs |= 1ull << stage_of(p, (u32)id);
	}
	last_stage(p)->needs &= ~(1ull << (p->stage_count - 1));
	return true;
}

static bool add_member(struct reader *r, const char *name, struct fields needs)
{
	struct plan *p = r->plan;
	struct member *m = &p->members[p->member_count];

	m->name = name;
	m->needs = needs;
	m->fate = FATE_PENDING;
	if (!check_needs(r, needs))
		return false;
	last_load(p)->member_count++;
	p->member_count++;
	return true;
}

static struct load *add_load(struct reader *r, const char *file, const char *name)
{
	struct plan *p = r->plan;
	struct load *l = &p->loads[p->load_count];

	if (!p->stage_count) {
		refuse(r, "a load before the first stage", NULL);
		return NULL;
	}
	p->load_count++;
	last_stage(p)->load_count++;
	l->file.path = file;
	l->file.fd = -1;
	l->names.fd = -1;
	l->name = name;
	l->member = p->member_count;
	l->originals = p->original_count;
	l->argument = p->argument_count;
	l->prefix = p->prefix_count;
	return l;
}

static bool on_kernel(struct reader *r, const char *const *f, struct fields rest)
{
	(void)rest;
	r->plan->release = f[0];
	return true;
}

static bool on_build_id(struct reader *r, const char *const *f, struct fields rest)
{
	(void)rest;
	r->plan->build_id = f[0];
	return true;
}

static bool on_names(struct reader *r, const char *const *f, struct fields rest)
{
	struct load *l = last_load(r->plan);

	(void)rest;
	if (!l || !l->merged || !r->plan->build_id)
		return refuse(r, "a member outside a merged load:", f[0]);
	l->names.path = f[0];
	return true;
}

static bool on_fallback(struct reader *r, const char *const *f, struct fields rest)
{
	(void)rest;
	r->plan->fallback = streq(f[0], "modules");
	return r->plan->fallback || streq(f[0], "none") || refuse(r, "unknown fallback", f[0]);
}

static bool on_probe(struct reader *r, const char *const *f, struct fields rest)
{
	(void)rest;
	r->plan->async_probe = streq(f[0], "async");
	r->plan->no_probe_wait = streq(f[0], "root");
	return r->plan->async_probe || r->plan->no_probe_wait || refuse(r, "unknown probe record", f[0]);
}

static bool on_watchdog(struct reader *r, const char *const *f, struct fields rest)
{
	(void)rest;
	return parse_plan_number(r, f[0], &r->plan->watchdog);
}

static bool on_shell(struct reader *r, const char *const *f, struct fields rest)
{
	(void)rest;
	r->plan->no_shell = true;
	return streq(f[0], "none") || refuse(r, "unknown shell record", f[0]);
}

static bool on_skip(struct reader *r, const char *const *f, struct fields rest)
{
	(void)rest;
	r->plan->skips[r->plan->skip_count++] = f[0];
	return true;
}

static bool on_stage(struct reader *r, const char *const *f, struct fields rest)
{
	struct plan *p = r->plan;
	struct stage *s = &p->stages[p->stage_count];

	(void)rest;
	if (p->stage_count == MAX_STAGES)
		return refuse(r, "more than 64 stages", NULL);
	if (!r->have_root || !p->release)
		return refuse(r, "a stage before kernel and root", NULL);
	s->name = f[0];
	s->trigger = TRIGGER_NOW;
	while (s->trigger < TRIGGER_TIMEOUT && !streq(trigger_name(s->trigger), f[1]))
		s->trigger++;
	if (s->trigger == TRIGGER_TIMEOUT)
		return refuse(r, "unknown trigger", f[1]);
	if (!p->stage_count && (!streq(f[0], "critical") || s->trigger != TRIGGER_NOW))
		return refuse(r, "the first stage must be: critical now", NULL);
	if (s->trigger == TRIGGER_PATH) {
		s->path = f[2];
		if (f[2][0] != '/')
			return refuse(r, "not an absolute path:", f[2]);
	} else if (s->trigger == TRIGGER_DELAY || s->trigger == TRIGGER_IDLE) {
		if (!parse_plan_number(r, f[2], &s->milliseconds))
			return false;
	} else if (!streq(f[2], "-")) {
		return refuse(r, "this trigger takes no argument:", f[2]);
	}
	s->load = p->load_count;
	s->watch = -1;
	p->stage_count++;
	return parse_plan_number(r, f[3], &s->timeout);
}

static bool on_merged(struct reader *r, const char *const *f, struct fields rest)
{
	struct load *l = add_load(r, f[0], f[1]);

	(void)rest;
	if (!l)
		return false;
	l->merged = true;
	l->results = streq(f[2], "1");
	return l->results || streq(f[2], "0") || refuse(r, "neither 0 nor 1:", f[2]);
}

static bool on_single(struct reader *r, const char *const *f, struct fields rest)
{
	return add_load(r, f[0], f[1]) && add_member(r, f[1], rest);
}

static bool on_member(struct reader *r, const char *const *f, struct fields rest)
{
	struct load *l = last_load(r->plan);

	if (!l || !l->merged)
		return refuse(r, "a member outside a merged load:", f[0]);
	return add_member(r, f[0], rest);
}

static bool on_parameters(struct reader *r, const char *const *f, struct fields rest)
{
	struct load *l = last_load(r->plan);

	if (!l || !l->member_count)
		return refuse(r, "parameters without a member before them:", f[0]);
	rest.first = f[0];
	rest.count++;
	r->plan->members[r->plan->member_count - 1].parameters = rest;
	for (; rest.count; rest.count--, rest.first = next_field(rest.first))
		if (!find_char(rest.first, '='))
			return refuse(r, "not NAME=KIND:", rest.first);
	return true;
}

static bool on_original(struct reader *r, const char *const *f, struct fields rest)
{
	struct plan *p = r->plan;
	struct load *l = last_load(p);

	(void)rest;
	if (!l || !l->merged || l->original_count == l->member_count)
		return refuse(r, "an original without a member before it:", f[0]);
	p->originals[p->original_count].path = f[0];
	p->originals[p->original_count++].fd = -1;
	l->original_count++;
	return true;
}

void check_originals(struct reader *r)
{
	const struct load *l = r->plan->loads, *end = l + r->plan->load_count;

	for (; r->plan->fallback && l < end; l++)
		if (l->merged && l->original_count != l->member_count)
			refuse(r, "a member without its original, in", l->name);
}

static bool on_argument(struct reader *r, const char *const *f, struct fields rest)
{
	struct plan *p = r->plan;

	(void)rest;
	if (!last_load(p))
		return refuse(r, "an argument outside a load:", f[0]);
	p->arguments[p->argument_count++] = f[0];
	last_load(p)->argument_count++;
	return true;
}

static bool on_prefix(struct reader *r, const char *const *f, struct fields rest)
{
	struct plan *p = r->plan;

	(void)rest;
	if (!last_load(p))
		return refuse(r, "a prefix outside a load:", f[0]);
	p->prefixes[p->prefix_count++] = f[0];
	last_load(p)->prefix_count++;
	return true;
}

static bool on_requests(struct reader *r, const char *const *f, struct fields rest)
{
	struct load *l = last_load(r->plan);

	(void)rest;
	if (!l)
		return refuse(r, "requests outside a load", NULL);
	l->modprobe = f[0][0] == '/' ? f[0] : NO_MODPROBE;
	return true;
}

static bool on_softdep(struct reader *r, const char *const *f, struct fields rest)
{
	(void)rest;
	r->plan->softdeps[r->plan->softdep_count++] = f[0];
	return true;
}

static bool on_dependents(struct reader *r, const char *const *f, struct fields rest)
{
	struct plan *p = r->plan;
	struct dependents *d = &p->dependents[p->dependents_count++];
	u64 id;

	if (!parse_plan_number(r, f[0], &id))
		return false;
	if (id >= p->member_count)
		return refuse(r, "not a plan id:", f[0]);
	d->id = (u32)id;
	d->names = rest;
	return true;
}

enum { MAX_FIXED = VERITY_FIELDS + 1 };

/* Each record: its word, how many fields it has at least, whether more may follow, and where it may stand. */
static const struct record {
	const char *word;
	u8 fixed;
	bool open;
	u8 place;
	bool (*take)(struct reader *r, const char *const *f, struct fields rest);
} records[] = {
	{ "kernel", 1, false, HEAD, on_kernel },
	{ "build-id", 1, false, HEAD, on_build_id },
	{ "fallback", 1, false, HEAD, on_fallback },
	{ "root", 1, true, HEAD, on_root },
	{ "device", 3, false, HEAD, on_device },
	{ "slot", 1, true, HEAD, on_slot },
	{ "before-mount", 2, true, HEAD, on_before_mount },
	{ "on-failure", 1, false, HEAD, on_failure },
	{ "overlay", 1, true, HEAD, on_overlay },
	{ "verity", VERITY_FIELDS, true, HEAD, on_verity },
	{ "slot-verity", VERITY_FIELDS + 1, true, HEAD, on_slot_verity },
	{ "probe", 1, false, HEAD, on_probe },
	{ "watchdog", 1, false, HEAD, on_watchdog },
	{ "shell", 1, false, HEAD, on_shell },
	{ "skip", 1, false, HEAD, on_skip },
	{ "stage", 4, false, BODY, on_stage },
	{ "merged", 3, false, BODY, on_merged },
	{ "argument", 1, false, BODY, on_argument },
	{ "member", 1, true, BODY, on_member },
	{ "parameters", 1, true, BODY, on_parameters },
	{ "original", 1, false, BODY, on_original },
	{ "names", 1, false, BODY, on_names },
	{ "prefix", 1, false, BODY, on_prefix },
	{ "requests", 1, false, BODY, on_requests },
	{ "single", 2, true, BODY, on_single },
	{ "softdep", 1, false, TAIL, on_softdep },
	{ "dependents", 2, true, TAIL, on_dependents },
};

bool take_record(struct reader *r, struct fields fields)
{
	const struct record *record = records, *end = records + sizeof(records) / sizeof(records[0]);
	const char *f[MAX_FIXED];
	struct fields rest;
	u32 i;

	if (r->line == 1)
		return (fields.count == 2 && streq(fields.first, "megamod-plan") &&
			streq(next_field(fields.first), "1")) ||
		       refuse(r, "the first line is not: megamod-plan 1", NULL);
	while (record < end && !streq(record->word, fields.first))
		record++;
	if (record == end)
		return refuse(r, "unknown record", fields.first);
	rest.count = fields.count - 1;
	if (rest.count < record->fixed || (rest.count > record->fixed && !record->open))
		return refuse(r, "wrong number of fields:", fields.first);
	if (record->place < r->place)
		return refuse(r, "out of order:", fields.first);
	r->place = record->place;
	rest.first = next_field(fields.first);
	for (i = 0; i < record->fixed; i++, rest.count--) {
		f[i] = rest.first;
		if (rest.count > 1) /* nothing lies behind the last field */
			rest.first = next_field(rest.first);
	}
	/* `dependents ID NAME…`: the first name was counted as fixed, to be required. */
	if (record->take == on_dependents) {
		rest.first = f[1];
		rest.count++;
	}
	return record->take(r, f, rest);
}
