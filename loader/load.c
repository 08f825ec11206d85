/* SPDX-License-Identifier: MIT
 *
 * One finit_module call a load, and the fallback: when the kernel refuses a megamodule, or with megamod=off, its
 * members' original files go in instead, one call each, in the order in which the glue would have run their inits.
 *
 * A call that fails has run no init: the glue's own init never fails (initramfs/megamod/prelink/glue.py), and
 * everything before it comes to an end without one.
 */
#include "load.h"
#include "arguments.h"
#include "files.h"
#include "image_files.h"
#include "log.h"
#include "results.h"
#include "times.h"

/* ---- /proc/sys/kernel/modprobe ---- */

#define MODPROBE "sys/kernel/modprobe"

static long put_modprobe(const struct boot *boot, const char *path)
{
	long fd = sys_openat(boot->proc, MODPROBE, O_WRONLY, 0), err;

	if (fd < 0)
		return fd;
	err = write_all((int)fd, path, length(path));
	sys_close((int)fd);
	return err;
}

/*
 * While a megamodule's inits run, a modprobe started by request_module() would wait for the megamodule to go live, and
 * the init for modprobe. With an empty path request_module() fails at once (__request_module, kernel/kmod.c, 6.1:
 * -ENOENT). A newline makes it empty; a write of zero bytes would do nothing. A deployment has a program of its own in
 * the place, for other processes' requests must not fail.
 */
static bool exchange_modprobe(const struct boot *boot, const char *path, char *saved, size_t room)
{
	long err = read_small(boot->proc, MODPROBE, saved, room);

	if (err >= 0)
		err = put_modprobe(boot, path);
	if (err < 0)
		log_debug("/proc/%s cannot be changed: %s", MODPROBE, errno_name(err));
	return err >= 0;
}

static void restore_modprobe(const struct boot *boot, const char *saved)
{
	long err = put_modprobe(boot, saved);

	if (err < 0)
		log_warning("/proc/%s cannot be changed: %s", MODPROBE, errno_name(err));
}

/* ---- what came of it ---- */

static void log_skipped(const struct boot *boot, const struct member *m)
{
	const char *other = missing_for(boot, m, ~0ull);

	if (m->fate == FATE_ASKED)
		log_info("member %s skipped: asked for", m->name);
	else
		log_warning("member %s skipped: needs %s", m->name, other ? other : "a member that is not there");
}

static void log_result(struct boot *boot, const struct load *load)
{
	const struct member *m = members_of(boot, load);
	struct counts c = { 0 };
	u32 i;

	for (i = 0; i < load->member_count; i++)
		if (m[i].fate == FATE_ASKED || m[i].fate == FATE_NEEDS)
			log_skipped(boot, &m[i]);
	add_counts(boot, load, &c);
	if (load->nanoseconds)
		log_info("load %s took %llu us: %u ok, %u failed, %u skipped", load->name,
			 (unsigned long long)divide(load->nanoseconds, 1000, NULL), c.ok, c.failed, c.skipped);
	log_init_times(boot, load);
}

/* ENOEXEC is what a module of another kernel gives: logs that if it is the reason. */
static void log_wrong_release(const struct boot *boot)
{
	char release[128];
	size_t n;

	if (read_small(boot->proc, "sys/kernel/osrelease", release, sizeof(release)) <= 0)
		return;
	for (n = 0; release[n] && release[n] != '\n'; n++)
		;
	release[n] = 0;
	if (!streq(release, boot->plan.release))
		log_warning("the image is for kernel %s, this is %s", boot->plan.release, release);
}

/* ---- the call ---- */

static long call(struct boot *boot, struct load *load, bool skips)
{
	const char *text = call_arguments(boot, load, skips);
	long fd, err = -E2BIG;

	if (!text)
		return err;
	fd = open_image_file(boot, &load->file);
	if (fd < 0)
		return fd;
	log_debug("load %s: %s", load->name, text);
	err = sys_finit_module((int)fd, text);
	sys_close((int)fd);
	load->file.fd = -1;
	return err;
}

/*
 * Makes the call and times it; its errno, positive. -EEXIST may mean that it is there already: a single put in by an
 * init's request_module(), or what a keeper that was killed had loaded.
 */
static int timed_call(struct boot *boot, struct load *load, bool skips)
{
	u64 start = monotonic_ns();
	long err = call(boot, load, skips);

	start = monotonic_ns() - start;
	load->nanoseconds += start ? start : 1;
	if (err == -EEXIST && is_live(boot, load->name))
		err = 0;
	if (err >= 0)
		return 0;
	log_warning("load %s failed: %s (%s)", load->name, errno_name(err), errno_text(err));
	if (err == -ENOEXEC)
		log_wrong_release(boot);
	return (int)-err;
}

static void load_by_itself(struct boot *boot, struct load *load)
{
	struct member *m = members_of(boot, load);

	load->method = METHOD_OWN;
	if (!mark_skipped(boot, load)) {
		load->error = timed_call(boot, load, false);
		m->result = -load->error;
		m->nanoseconds = load->nanoseconds;
		m->fate = load->error ? FATE_FAILED : FATE_OK;
	}
	log_result(boot, load);
}

/* Each member's original, in the members' order, as a single. */
static void load_originals(struct boot *boot, struct load *load)
{
	struct load one = *load;
	u32 i;

	log_info("load %s: its %u modules are loaded one by one", load->name, load->member_count);
	set_pending(boot, load, FATE_FAILED); /* until its own turn nobody is there */
	load->method = METHOD_ORIGINALS;
	one.merged = false;
	one.original = true;
	one.member_count = 1;
	for (i = 0; i < load->member_count; i++) {
		one.member = load->member + i;
		one.name = boot->plan.members[one.member].name;
		one.file = boot->plan.originals[load->originals + i];
		one.nanoseconds = 0;
		one.error = 0;
		load_by_itself(boot, &one);
		boot->plan.originals[load->originals + i].fd = one.file.fd;
		load->nanoseconds += one.nanoseconds;
	}
}

static void load_merged(struct boot *boot, struct load *load)
{
	bool fallback = load->original_count > 0;
	u32 out = mark_skipped(boot, load);

	if (fallback && (boot->options.off || (out && !load->results))) {
		load_originals(boot, load);
		return;
	}
	load->method = METHOD_OWN;
	/* A megamodule that cannot leave a member out is not loaded when it ought to. */
	if (out && !load->results) {
		set_pending(boot, load, FATE_NEEDS);
		log_result(boot, load);
		return;
	}
	load->error = timed_call(boot, load, out > 0);
	if (load->error && fallback) {
		load_originals(boot, load);
		return;
	}
	if (load->error)
		set_pending(boot, load, FATE_FAILED);
	else if (load->results)
		read_results(boot, load);
	else
		set_pending(boot, load, FATE_OK);
	log_result(boot, load);
}

bool find_loaded(struct boot *boot, struct stage *stage)
{
	struct load *load = boot->plan.loads + stage->load;
	bool any = false;
	struct member *m;
	u32 i, n;

	for (n = 0; n < stage->load_count; n++, load++) {
		m = members_of(boot, load);
		if (load->merged && is_live(boot, load->name)) {
			any = true;
			load->method = METHOD_OWN;
			mark_skipped(boot, load);
			if (load->results)
				read_results(boot, load);
			set_pending(boot, load, FATE_OK);
			continue;
		}
		/* Not there, or its members one by one. */
		for (i = 0; i < load->member_count; i++) {
			m[i].fate = is_live(boot, m[i].name) ? FATE_OK : FATE_FAILED;
			any |= m[i].fate == FATE_OK;
		}
		load->method = load->merged ? METHOD_ORIGINALS : METHOD_OWN;
	}
	if (any)
		stage->state = STATE_DONE;
	return any;
}

void load_stage(struct boot *boot, struct stage *stage, enum trigger fired)
{
	struct load *load = boot->plan.loads + stage->load, *end = load + stage->load_count;
	bool critical = stage == boot->plan.stages, exchanged, refused = false;
	struct counts counts;
	char modprobe[256];

	log_info("stage %s triggered by %s", stage->name, trigger_name(fired));
	log_cpu_time(boot);
	exchanged = critical && load < end && exchange_modprobe(boot, NO_MODPROBE, modprobe, sizeof(modprobe));
	for (; load < end; load++) {
		if (!critical && load->modprobe) {
			exchanged = exchange_modprobe(boot, load->modprobe, modprobe, sizeof(modprobe));
			if (load->modprobe[0] != '/')
				log_info("load %s: request_module is off during this call", load->name);
		}
		if (load->merged)
			load_merged(boot, load);
		else
			load_by_itself(boot, load);
		refused |= load->error && load->merged && load->method == METHOD_OWN;
		if (!critical && exchanged) {
			restore_modprobe(boot, modprobe);
			exchanged = false;
		}
	}
	if (exchanged)
		restore_modprobe(boot, modprobe);
	count_stage(boot, stage, &counts);
	stage->state = refused || (!counts.ok && counts.failed) ? STATE_FAILED : STATE_DONE;
	log_info("stage %s done", stage->name);
}
