/* SPDX-License-Identifier: MIT
 *
 * /run/modprobe.d/megamod.conf: keeps udev and modprobe from inserting a member a second time, and anything that needs
 * a failed one from being inserted at all. kmod reads that folder, and /run survives the switch of the root.
 *
 * `blacklist` stops requests by alias, `install` those by name and by dependency, and an empty softdep makes kmod heed
 * `install` for a module that has a softdep of its own (kmod 30). A deferred module is masked from the start: it is
 * coming, and must not come twice. With megamod.deferred=off it is not coming, so modprobe may have it.
 */
#include "boot.h"
#include "say.h"

enum { MASK_ROOM = 4 << 20 };

static void mask_one(struct text *t, const char *name, bool good)
{
	text_format(t, "blacklist %s\ninstall %s %s\n", name, name, good ? "/bin/true" : "/bin/false");
}

static bool is_bad(const struct member *m)
{
	return m->fate != FATE_OK && m->fate != FATE_PENDING;
}

void write_mask(const struct boot *boot)
{
	const struct plan *p = &boot->plan;
	struct text t = { NULL, MASK_ROOM, 0, false };
	const struct dependents *d;
	struct fields f;
	u32 i, last = p->member_count;
	long err;

	if (boot->options.deferred_off && p->stage_count > 1)
		last = p->stages[1].load < p->load_count ? p->loads[p->stages[1].load].member : last;
	t.data = sys_map(MASK_ROOM);
	err = -ENOMEM;
	if (!t.data)
		goto out;
	text_add(&t, "# Written by the megamod loader: these modules are in the kernel already, or must stay out of it.\n");
	for (i = 0; i < last; i++)
		mask_one(&t, p->members[i].name, !is_bad(&p->members[i]));
	for (i = 0; i < p->softdep_count; i++)
		text_format(&t, "softdep %s pre:\n", p->softdeps[i]);
	for (i = 0; i < p->dependents_count; i++) {
		d = &p->dependents[i];
		if (!is_bad(&p->members[d->id]))
			continue;
		for (f = d->names; f.count; f.count--, f.first = next_field(f.first))
			mask_one(&t, f.first, false);
	}
	err = t.cut ? -E2BIG : replace_file(boot->run, "modprobe.d", "megamod.conf", t.data, t.used);
	sys_unmap(t.data, MASK_ROOM);
out:
	if (err < 0)
		warn("/run/modprobe.d/megamod.conf cannot be written: %s", errno_name(err));
}
