/* SPDX-License-Identifier: MIT
 *
 * See root_stage.h. A driver's module has the name of the type that it registers, with the exceptions below (fs/ of
 * Linux 6.1: register_filesystem()).
 */
#include "root_stage.h"
#include "files.h"
#include "log.h"
#include "retry.h"
#include "start_keeper.h"

enum { TRIES = 100, PAUSE_NS = 10000000 };

static const char *module_of(const char *type)
{
	if (streq(type, "iso9660"))
		return "isofs";
	if (streq(type, "ext3") || streq(type, "ext2"))
		return "ext4";
	return type;
}

static bool has_member(const struct boot *boot, const struct stage *stage, const char *name)
{
	const struct load *load = boot->plan.loads + stage->load, *end = load + stage->load_count;
	u32 i;

	for (; load < end; load++)
		for (i = 0; i < load->member_count; i++)
			if (streq(boot->plan.members[load->member + i].name, name))
				return true;
	return false;
}

/* The keeper makes its FIFO a moment after it has let process 1 go on. */
static long open_control(const struct boot *boot)
{
	long fd = -ENOENT, tries;

	for (tries = 0; fd < 0 && tries < TRIES; tries++) {
		fd = sys_openat(boot->run, "megamod/control", O_WRONLY | O_NONBLOCK, 0);
		if (fd < 0)
			sys_ppoll(NULL, 0, &(struct timespec64){ .nsec = PAUSE_NS });
	}
	return fd;
}

/* This stage, and first those that it waits for. */
static void trigger(const struct boot *boot, int control, u64 wanted)
{
	const struct stage *s = boot->plan.stages + boot->plan.stage_count;
	TEXT(line, 128);

	while (--s > boot->plan.stages)
		if (wanted >> (s - boot->plan.stages) & 1)
			wanted |= s->needs;
	for (s = boot->plan.stages + 1; s < boot->plan.stages + boot->plan.stage_count; s++) {
		if (!(wanted >> (s - boot->plan.stages) & 1))
			continue;
		text_reset(&line);
		text_format(&line, "%s\n", s->name);
		write_all(control, line.data, line.used);
	}
}

/* The deferred stages with a module of this name, a bit each, by their indices in the plan. */
static u64 stages_with(struct boot *boot, const char *module)
{
	const struct stage *s;
	u64 found = 0;

	for (s = first_deferred(boot); s < end_of_stages(boot); s++)
		if (has_member(boot, s, module))
			found |= 1ull << (s - boot->plan.stages);
	return found;
}

bool ask_for_driver(struct boot *boot, const char *type)
{
	static u64 asked;
	u64 wanted = stages_with(boot, module_of(type));
	long control;

	if (!wanted || boot->alive < 0 || boot->options.deferred_off)
		return false;
	if (asked & wanted)
		return true;
	wait_for_keeper(boot);
	control = open_control(boot);
	if (control < 0) {
		log_warning("the driver of %s is in a deferred stage, which cannot be asked for: %s", type,
			    errno_name(control));
		return false;
	}
	log_info("the driver of %s is in a deferred stage, which is loaded now", type);
	trigger(boot, (int)control, wanted);
	sys_close((int)control);
	asked |= wanted;
	look_every_second(); /* before 5.11 the event of a module comes before its init */
	return true;
}
