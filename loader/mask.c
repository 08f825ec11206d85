/* SPDX-License-Identifier: MIT
 *
 * /run/modprobe.d/megamod.conf: keeps udev and modprobe from inserting a member a second time, and anything that needs
 * a failed one from being inserted at all. kmod reads that folder, and /run survives the switch of the root.
 *
 * `blacklist` stops requests by alias, `install` those by name and by dependency, and an empty softdep makes kmod heed
 * `install` for a module that has a softdep of its own (kmod 30). A deferred module is masked from the start: it is
 * coming, and must not come twice; what needs it is kept out until then (it would find no symbols), and the keeper asks
 * udev again when the stage has come. With megamod.deferred=off it is not coming, so modprobe may have it.
 */
#include "mask.h"
#include "files.h"
#include "log.h"

enum {
	MASK_ROOM = 4 << 20,
	SEEN = 1 << 14, /* places for names that were written; when they are full, one is written twice */
};

static void mask_one(struct text *t, const char *name, bool good)
{
	text_format(t, "blacklist %s\ninstall %s %s\n", name, name, good ? "/bin/true" : "/bin/false");
}

/* Is this the first time? A module is in the list of everything that it needs. */
static bool is_new(const char **seen, const char *name)
{
	u32 place = 2166136261u, tries;
	const char *s;

	for (s = name; *s; s++)
		place = (place ^ (u8)*s) * 16777619u; /* FNV-1a */
	for (tries = 0; seen && tries < 16; tries++, place++) {
		if (!seen[place & (SEEN - 1)]) {
			seen[place & (SEEN - 1)] = name;
			return true;
		}
		if (streq(seen[place & (SEEN - 1)], name))
			return false;
	}
	return true;
}

static bool is_bad(const struct member *m)
{
	return m->fate != FATE_OK && m->fate != FATE_PENDING;
}

/* What needs a member that is not there; of those that are to come only if `waiting`. */
static void mask_dependents(const struct plan *p, u32 last, bool waiting, struct text *t)
{
	const char **seen = sys_map(SEEN * sizeof(*seen));
	const struct dependents *d = p->dependents, *end = d + p->dependents_count;
	const struct member *m;
	struct fields f;

	for (; d < end; d++) {
		m = &p->members[d->id];
		if (is_bad(m) || (waiting && m->fate == FATE_PENDING && d->id < last))
			for (f = d->names; f.count; f.count--, f.first = next_field(f.first))
				if (is_new(seen, f.first))
					mask_one(t, f.first, false);
	}
	if (seen)
		sys_unmap(seen, SEEN * sizeof(*seen));
}

void write_mask(const struct boot *boot, bool waiting)
{
	const struct plan *p = &boot->plan;
	struct text t = { NULL, MASK_ROOM, 0, false };
	u32 i, last = p->member_count;
	long err;

	if (boot->options.deferred_off && p->stage_count > 1)
		last = p->stages[1].load < p->load_count ? p->loads[p->stages[1].load].member : last;
	t.data = sys_map(MASK_ROOM);
	err = -ENOMEM;
	if (!t.data)
		goto out;
	text_add(&t,
		 "# Written by the megamod loader: these modules are in the kernel already, or must stay out of it.\n");
	for (i = 0; i < last; i++)
		mask_one(&t, p->members[i].name, !is_bad(&p->members[i]) || has_run(&p->members[i]));
	for (i = 0; i < p->softdep_count; i++)
		text_format(&t, "softdep %s pre:\n", p->softdeps[i]);
	mask_dependents(p, last, waiting, &t);
	err = t.cut ? -E2BIG : replace_file(boot->run, "modprobe.d", "megamod.conf", t.data, t.used);
	sys_unmap(t.data, MASK_ROOM);
out:
	if (err < 0)
		log_warning("/run/modprobe.d/megamod.conf cannot be written: %s", errno_name(err));
}
