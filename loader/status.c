/* SPDX-License-Identifier: MIT
 *
 * /run/megamod/status: one line a stage, eight fields: name, state, errno, milliseconds in load calls, members ok,
 * failed, skipped, and `merged` or `fallback`. The file is always whole: it is replaced, not rewritten.
 */
#include "boot.h"
#include "say.h"

enum { STATUS_ROOM = 16384 };

long replace_file(int at, const char *folder, const char *name, const char *data, size_t size)
{
	TEXT(path, 128);
	TEXT(other, 128);
	long fd, err;

	err = sys_mkdirat(at, folder, 0755);
	if (err < 0 && err != -EEXIST)
		return err;
	text_format(&path, "%s/%s", folder, name);
	text_format(&other, "%s/.%s", folder, name);
	fd = sys_openat(at, other.data, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	if (fd < 0)
		return fd;
	err = write_all((int)fd, data, size);
	sys_close((int)fd);
	if (err >= 0)
		err = sys_renameat(at, other.data, path.data);
	if (err < 0)
		sys_unlinkat(at, other.data, 0);
	return err;
}

const char *state_name(enum state state)
{
	static const char *const states[] = { "waiting", "loading", "done", "failed" };

	return states[state];
}

void write_status(const struct boot *boot)
{
	static char room[STATUS_ROOM];
	struct text t = { room, sizeof(room), 0, false };
	const struct stage *s;
	struct counts c;
	long err;

	for (s = boot->plan.stages; s < boot->plan.stages + boot->plan.stage_count; s++) {
		count_stage(boot, s, &c);
		text_format(&t, "%s %s %d %llu %u %u %u %s\n", s->name, state_name(s->state), c.error,
			    (unsigned long long)divide(c.nanoseconds, 1000000, NULL), c.ok, c.failed, c.skipped,
			    c.originals ? "fallback" : "merged");
	}
	err = replace_file(boot->run, "megamod", "status", t.data, t.used);
	if (err < 0)
		warn("/run/megamod/status cannot be written: %s", errno_name(err));
}
