/* SPDX-License-Identifier: MIT
 *
 * What became of each member: who was left out and because of whom, who failed. A megamodule's glue leaves its results
 * in parameters, which are read back from sysfs.
 *
 * A member is left out when the user asks for it or when one that it needs is not there: its init would call into code
 * that was never initialised.
 */
#include "results.h"
#include "files.h"
#include "log.h"

enum {
	VALUES_ROOM = 4096, /* a sysfs file is at most a page */
	CHUNK = 256,	    /* members in one result parameter */
};

/* What the glue leaves in its result parameters, besides 0 and a negative errno. */
enum { RESULT_OK = 0, RESULT_ASKED = 1, RESULT_NEEDS = 2, RESULT_NOT_RUN = 3, RESULT_RUNS = 4 };

const char *missing_for(const struct boot *boot, const struct member *m, u64 limit)
{
	struct fields f = m->needs;
	const char *at;
	u64 id;

	for (; f.count; f.count--, f.first = next_field(f.first)) {
		at = f.first;
		if (take_number(&at, &id) && id < limit && boot->plan.members[id].fate != FATE_OK)
			return boot->plan.members[id].name;
	}
	return NULL;
}

/*
 * The plan's skips can be taken back by megamod.run=. The words of others mean what these take them for: the kernel and
 * kmod compare names as they are written (blacklisted(), kernel/module/main.c, 6.1; kmod_config_parse_kcmdline(),
 * kmod 34), dracut writes a line for modprobe.d, where - and _ are equal, and in its initramfs alone
 * (90kernel-modules/parse-kernel.sh, 059): here that is the critical stage.
 */
const char *who_skips(const struct boot *boot, const struct load *load, const char *name)
{
	const struct options *o = &boot->options;
	u32 i;

	if (in_list(o->skip, name))
		return "";
	if (in_exact_list(o->kernel_blacklist, name))
		return "module_blacklist";
	if (in_exact_list(o->kmod_blacklist, name))
		return "modprobe.blacklist";
	if (o->dracut_blacklist[0] && !stage_of(&boot->plan, load->member) && in_list(o->dracut_blacklist, name))
		return "rd.driver.blacklist";
	for (i = 0; i < boot->plan.skip_count; i++)
		if (same_module(name, length(name), boot->plan.skips[i]))
			return in_list(o->run, name) ? NULL : "";
	return NULL;
}

u32 mark_skipped(struct boot *boot, const struct load *load)
{
	struct member *m = members_of(boot, load);
	u32 i, out = 0;

	for (i = 0; i < load->member_count; i++) {
		m[i].fate = FATE_PENDING;
		if (who_skips(boot, load, m[i].name))
			m[i].fate = FATE_ASKED;
		else if (m[i].needs.count && missing_for(boot, &m[i], load->member)) /* within it, the glue decides */
			m[i].fate = FATE_NEEDS;
		out += m[i].fate != FATE_PENDING;
	}
	return out;
}

void set_fate(struct boot *boot, const struct load *load, enum fate from, enum fate to)
{
	struct member *m = members_of(boot, load);
	u32 i;

	for (i = 0; i < load->member_count; i++)
		if (m[i].fate == from)
			m[i].fate = to;
}

void set_pending(struct boot *boot, const struct load *load, enum fate fate)
{
	set_fate(boot, load, FATE_PENDING, fate);
}

/* One member's result as the glue has it; negative is the errno of its init. */
static void take_result(struct member *m, s64 result)
{
	if (m->fate == FATE_FAILED && m->result == -ETIMEDOUT && result == RESULT_OK) {
		log_info("member %s finished late", m->name);
		m->fate = FATE_OK;
		m->result = 0;
	}
	if (m->fate != FATE_PENDING)
		return; /* left out by us: the glue only repeats it */
	if (result == RESULT_OK)
		m->fate = FATE_OK;
	else if (result == RESULT_ASKED)
		m->fate = FATE_ASKED;
	else if (result == RESULT_NEEDS)
		m->fate = FATE_NEEDS;
	else
		m->fate = FATE_FAILED;
	if (result < 0) {
		m->result = (int)result;
		log_warning("member %s failed: -%s", m->name, errno_name((long)result));
	} else if (m->fate == FATE_FAILED) {
		log_warning("member %s failed: it was not run", m->name);
	}
}

/* One parameter; returns how many members it had, or a negative errno. */
static long read_chunk(const struct boot *boot, const char *path, struct member *m, u32 count, take_value *take)
{
	static char values[VALUES_ROOM + 1];
	const char *at = values;
	long err = read_small(boot->sys, path, values, sizeof(values));
	bool negative;
	u64 number;
	u32 i;

	if (err < 0)
		return err;
	for (i = 0; i < count; i++) {
		negative = *at == '-';
		at += negative;
		if (!take_number(&at, &number))
			break;
		take(&m[i], negative ? -(s64)number : (s64)number);
		if (*at != ',')
			return i + 1;
		at++;
	}
	return i;
}

void read_array(struct boot *boot, const struct load *load, const char *what, u32 room, take_value *take)
{
	struct member *m = members_of(boot, load);
	TEXT(path, 192);
	u32 i, count, chunk = 0;
	long got;

	for (i = 0; i < load->member_count; i += count, chunk++) {
		text_reset(&path);
		text_format(&path, "module/%s/parameters/%s", load->name, what);
		if (chunk)
			text_format(&path, "%u", chunk);
		count = load->member_count - i < room ? load->member_count - i : room;
		got = read_chunk(boot, path.data, m + i, count, take);
		if (got != (long)count)
			log_warning("load %s: %s %u to %u cannot be read: %s", load->name, what, i, i + count - 1,
				    got < 0 ? errno_name(got) : "too few");
	}
}

void read_results(struct boot *boot, const struct load *load)
{
	read_array(boot, load, "result", CHUNK, take_result);
	set_pending(boot, load, FATE_FAILED); /* not knowing is not a ground to run what needs them */
}

static bool is_over(s64 result)
{
	return result != RESULT_NOT_RUN && result != RESULT_RUNS;
}

static struct member *next;
static u32 finished;

static void take_partial(struct member *m, s64 result)
{
	if (is_over(result))
		take_result(m, result);
	else if (!next && m->fate == FATE_PENDING)
		next = m;
}

static void take_count(struct member *m, s64 result)
{
	(void)m;
	finished += is_over(result);
}

u32 read_partial_results(struct boot *boot, const struct load *load)
{
	next = NULL;
	read_array(boot, load, "result", CHUNK, take_partial);
	return next ? (u32)(next - members_of(boot, load)) : load->member_count;
}

u32 count_results(struct boot *boot, const struct load *load)
{
	finished = 0;
	read_array(boot, load, "result", CHUNK, take_count);
	return finished;
}

enum module_state module_state(const struct boot *boot, const char *name)
{
	TEXT(path, 192);
	char state[16];

	text_format(&path, "module/%s/initstate", name);
	if (read_small(boot->sys, path.data, state, sizeof(state)) <= 0)
		return MODULE_GONE;
	return starts_with(state, "live") ? MODULE_LIVE : MODULE_COMING;
}

bool is_live(const struct boot *boot, const char *name)
{
	return module_state(boot, name) == MODULE_LIVE;
}

void add_counts(const struct boot *boot, const struct load *load, struct counts *counts)
{
	const struct member *m = boot->plan.members + load->member, *end = m + load->member_count;

	for (; m < end; m++) {
		counts->ok += has_run(m);
		counts->failed += m->fate == FATE_FAILED;
		counts->skipped += m->fate == FATE_ASKED || m->fate == FATE_NEEDS;
	}
	counts->nanoseconds += load->nanoseconds;
	counts->originals |= load->method == METHOD_ORIGINALS;
	if (!counts->error)
		counts->error = load->error;
}

void count_stage(const struct boot *boot, const struct stage *stage, struct counts *counts)
{
	const struct load *load = boot->plan.loads + stage->load;
	u32 i;

	*counts = (struct counts){ 0 };
	for (i = 0; i < stage->load_count; i++)
		add_counts(boot, load + i, counts);
}
