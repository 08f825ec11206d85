/* SPDX-License-Identifier: MIT
 *
 * /run/megamod/status: one line a stage, eight fields: name, state, errno, milliseconds in load calls, members ok,
 * failed, skipped, and `merged` or `fallback`. /run/megamod/status.json, for programs: README.md has its fields;
 * members of a megamodule have their times in its parameters, which are read when the file is written.
 *
 * Both files are always whole: they are replaced, not rewritten.
 */
#include "status.h"
#include "files.h"
#include "log.h"
#include "results.h"
#include "times.h"

enum { STATUS_ROOM = 16384, JSON_ROOM = 16 << 20 };

void write_status(const struct boot *boot)
{
	static char room[STATUS_ROOM];
	struct text t = { room, sizeof(room), 0, false };
	const struct stage *s;
	struct counts c;
	long err;

	for (s = boot->plan.stages; s < boot->plan.stages + boot->plan.stage_count; s++) {
		count_stage(boot, s, &c);
		text_format(&t, "%s %s %d %llu %u %u %u %s\n", s->name, stage_state_name(s->state), c.error,
			    (unsigned long long)divide(c.nanoseconds, 1000000, NULL), c.ok, c.failed, c.skipped,
			    c.originals ? "fallback" : "merged");
	}
	err = replace_file(boot->run, "megamod", "status", t.data, t.used);
	if (err < 0)
		log_warning("/run/megamod/status cannot be written: %s", errno_name(err));
}

/* A string, or null. Names are ASCII; a byte that is not becomes an escape, so the file is always valid. */
static void add_string(struct text *t, const char *s)
{
	static const char digits[] = "0123456789abcdef";

	if (!s) {
		text_add(t, "null");
		return;
	}
	text_add(t, "\"");
	for (; *s; s++) {
		if (*s < ' ' || *s > '~')
			text_format(t, "\\u00%c%c", digits[(u8)*s >> 4], digits[*s & 15]);
		else
			text_format(t, *s == '"' || *s == '\\' ? "\\%c" : "%c", *s);
	}
	text_add(t, "\"");
}

static void add_named(struct text *t, const char *name, const char *value)
{
	text_format(t, "\"%s\": ", name);
	add_string(t, value);
	text_add(t, ", ");
}

static void add_member(struct text *t, const struct boot *boot, const struct member *m)
{
	static const char *const fates[] = { "waiting", "ok", "failed", "skipped", "skipped", "ok" };

	text_add(t, "      {");
	add_named(t, "name", m->name);
	add_named(t, "state", fates[m->fate]);
	/* The errno of a failed one is not known if the kernel refused the whole megamodule. */
	if (has_run(m) || (m->fate == FATE_FAILED && m->result))
		text_format(t, "\"result\": %d, ", m->result);
	else
		text_add(t, "\"result\": null, ");
	text_format(t, "\"nanoseconds\": %llu, ", (unsigned long long)m->nanoseconds);
	add_named(t, "because", m->fate == FATE_ASKED ? "asked" : m->fate == FATE_NEEDS ? "needs" : NULL);
	text_add(t, "\"needs\": ");
	add_string(t, m->fate == FATE_NEEDS ? missing_for(boot, m, ~0ull) : NULL);
	text_add(t, "}");
}

static void add_load(struct text *t, struct boot *boot, const struct load *load)
{
	static const char *const methods[] = { "none", "own", "originals" };
	u32 i;

	read_times(boot, load);
	text_add(t, "    {");
	add_named(t, "name", load->name);
	add_named(t, "kind", load->merged ? "merged" : "single");
	add_named(t, "loaded", methods[load->method]);
	text_format(t, "\"errno\": %d, \"nanoseconds\": %llu, \"members\": [\n", load->error,
		    (unsigned long long)load->nanoseconds);
	for (i = 0; i < load->member_count; i++) {
		add_member(t, boot, boot->plan.members + load->member + i);
		text_add(t, i + 1 < load->member_count ? ",\n" : "\n");
	}
	text_add(t, "    ]}");
}

static void add_stage(struct text *t, struct boot *boot, const struct stage *s)
{
	struct counts c;
	u32 i;

	count_stage(boot, s, &c);
	text_add(t, "  {");
	add_named(t, "name", s->name);
	add_named(t, "state", stage_state_name(s->state));
	add_named(t, "trigger", trigger_name(s->trigger));
	add_named(t, "triggered", s->fired == TRIGGER_NONE ? NULL : trigger_name(s->fired));
	add_named(t, "path", s->path);
	text_format(t, "\"fallback\": %s, \"errno\": %d, \"nanoseconds\": %llu, ", c.originals ? "true" : "false",
		    c.error, (unsigned long long)c.nanoseconds);
	text_format(t, "\"ok\": %u, \"failed\": %u, \"skipped\": %u, \"loads\": [\n", c.ok, c.failed, c.skipped);
	for (i = 0; i < s->load_count; i++) {
		add_load(t, boot, boot->plan.loads + s->load + i);
		text_add(t, i + 1 < s->load_count ? ",\n" : "\n");
	}
	text_add(t, "  ]}");
}

void write_status_json(struct boot *boot)
{
	struct text t = { NULL, JSON_ROOM, 0, false };
	u32 i;
	long err = -ENOMEM;

	t.data = sys_map(JSON_ROOM);
	if (t.data) {
		text_add(&t, "{\"version\": 1, ");
		add_named(&t, "kernel", boot->plan.release);
		text_format(&t, "\"off\": %s, \"stages\": [\n", boot->options.off ? "true" : "false");
		for (i = 0; i < boot->plan.stage_count; i++) {
			add_stage(&t, boot, boot->plan.stages + i);
			text_add(&t, i + 1 < boot->plan.stage_count ? ",\n" : "\n");
		}
		text_add(&t, "]}\n");
		err = t.cut ? -E2BIG : replace_file(boot->run, "megamod", "status.json", t.data, t.used);
		sys_unmap(t.data, JSON_ROOM);
	}
	if (err < 0)
		log_warning("/run/megamod/status.json cannot be written: %s", errno_name(err));
}
