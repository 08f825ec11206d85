/* SPDX-License-Identifier: MIT
 *
 * One finit_module call a load, and the fallback: when the kernel refuses a megamodule, or with megamod=off, its
 * members' original files go in instead, one call each, in the order in which the glue would have run their inits.
 *
 * A call that fails has run no init: the glue's own init fails only where it finds another kernel than it is for,
 * before it calls any (initramfs/megamod/prelink/glue.py), and everything before it comes to an end without one.
 */
#include "load.h"
#include "arguments.h"
#include "files.h"
#include "image_files.h"
#include "log.h"
#include "names_form.h"
#include "probes.h"
#include "results.h"
#include "times.h"
#include "unpack.h"

/* ---- what came of it ---- */

static void log_skipped(const struct boot *boot, const struct load *load, const struct member *m)
{
	const char *other = missing_for(boot, m, ~0ull), *word;

	if (m->fate == FATE_ASKED) {
		word = who_skips(boot, load, m->name);
		log_info("member %s skipped: asked for%s%s", m->name, word && *word ? " by " : "", word ? word : "");
	} else
		log_warning("member %s skipped: needs %s", m->name, other ? other : "a member that is not there");
}

void log_result(struct boot *boot, const struct load *load)
{
	const struct member *m = members_of(boot, load);
	struct counts c = { 0 };
	u32 i;

	for (i = 0; i < load->member_count; i++)
		if (m[i].fate == FATE_ASKED || m[i].fate == FATE_NEEDS)
			log_skipped(boot, load, &m[i]);
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

/* One call for the file, packed or not, in the form that is right for this kernel. */
static long put_in(const struct boot *boot, const struct load *load, int fd, const char *text)
{
	struct unpacked whole;
	long err;

	if (!fits_kernel(boot, load)) {
		log_info("load %s: by names", load->name);
		err = make_names_form(boot, load, fd, &whole);
	} else if (ends_with(load->file.path, PACKED_ENDING))
		err = unpack_file(fd, &whole);
	else
		return sys_finit_module(fd, text);
	if (err < 0) {
		log_error("%s: cannot be unpacked: %s", load->file.path, errno_text(err));
		return err;
	}
	err = sys_init_module(whole.data, whole.size, text);
	free_unpacked(&whole);
	return err;
}

static long call(struct boot *boot, struct load *load, bool words, bool skips)
{
	const char *text = call_arguments(boot, load, words, skips);
	long fd, err = -E2BIG;

	if (!text)
		return err;
	fd = open_image_file(boot, &load->file);
	if (fd < 0)
		return fd;
	log_debug("load %s: %s", load->name, text);
	err = put_in(boot, load, (int)fd, text);
	if (err >= 0)
		after_call(boot, load);
	if (load->file.fd < 0)
		sys_close((int)fd); /* else it is its holder's */
	return err;
}

/* What a parameter's setter says of a value (kernel/params.c, 6.1), that it is about hardware and the kernel locked
 * down (EPERM), or that there is no room for the words. */
static bool may_be_a_word(long err)
{
	return err == -EINVAL || err == -ENOENT || err == -ERANGE || err == -ENOSPC || err == -E2BIG || err == -EPERM;
}

enum { MAX_JUDGES = 4 };

/* A setter of a member's own has perhaps refused a word, which one only the kernel knows: each such member is left out
 * in turn. */
static long without_a_judge(struct boot *boot, struct load *load, long err)
{
	struct member *m = NULL;
	u32 i;

	for (i = 0; i < MAX_JUDGES && load->results; i++) {
		m = next_own_judge(boot, load, m);
		if (!m)
			break;
		m->fate = FATE_FAILED;
		log_warning("load %s: once more without %s", load->name, m->name);
		err = call(boot, load, true, true);
		if (err >= 0) {
			m->result = -EINVAL;
			log_warning("member %s failed: -EINVAL", m->name);
			break;
		}
		m->fate = FATE_PENDING;
	}
	return err;
}

/*
 * Makes the call and times it; its errno, positive. -EEXIST may mean that it already exists: a single put in by an
 * init's request_module(), or what a keeper that was killed had loaded.
 */
static int timed_call(struct boot *boot, struct load *load, bool skips)
{
	u64 start = monotonic_ns();
	long err = boot->plan.progress->locked ? -EDEADLK : call(boot, load, true, skips);
	const char *words;

	start = monotonic_ns() - start;
	load->nanoseconds += start ? start : 1;
	if (err == -EEXIST && is_live(boot, load->name))
		err = 0;
	if (err >= 0)
		return 0;
	log_warning("load %s failed: %s (%s)", load->name, errno_name(err), errno_text(err));
	if (err == -ENOEXEC)
		log_wrong_release(boot);
	if (load->merged && may_be_a_word(err) && *(words = command_line_words(boot, load))) {
		start = monotonic_ns();
		err = without_a_judge(boot, load, err);
		if (err < 0) {
			log_warning("load %s: once more without %s", load->name, words);
			err = call(boot, load, false, skips);
		}
		load->nanoseconds += monotonic_ns() - start;
		if (err < 0)
			log_warning("load %s failed: %s (%s)", load->name, errno_name(err), errno_text(err));
	}
	return err < 0 ? (int)-err : 0;
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

/*
 * The members' originals, in the members' order, as singles: those from boot->plan.progress->original on, and of them
 * those that have no fate yet. Until its own turn nobody is there.
 */
static void load_originals(struct boot *boot, struct load *load)
{
	struct load one = *load;
	u32 *i = &boot->plan.progress->original;
	const struct member *m;

	for (; *i < load->member_count; ++*i) {
		m = members_of(boot, load) + *i;
		if (m->fate == FATE_OK || m->fate == FATE_FAILED || m->fate == FATE_SHUT)
			continue;
		one.merged = false;
		one.original = true;
		one.member_count = 1;
		one.member = load->member + *i;
		one.name = m->name;
		one.file = boot->plan.originals[load->originals + *i];
		one.names.path = NULL;
		one.nanoseconds = 0;
		one.error = 0;
		load_by_itself(boot, &one);
		load->nanoseconds += one.nanoseconds;
	}
}

void take_originals(struct boot *boot, struct load *load)
{
	log_info("load %s: its %u modules are loaded one by one", load->name, load->member_count);
	load->method = METHOD_ORIGINALS;
	boot->plan.progress->original = 0;
}

void finish_load(struct boot *boot, struct load *load)
{
	if (load->error)
		set_pending(boot, load, FATE_FAILED);
	else if (load->results)
		read_results(boot, load);
	else
		set_pending(boot, load, FATE_OK);
	log_result(boot, load);
}

static void load_merged(struct boot *boot, struct load *load)
{
	bool fallback = load->original_count > 0;
	u32 out = mark_skipped(boot, load);

	if (fallback && (boot->options.off || (out && !load->results))) {
		take_originals(boot, load);
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
	out += refuse_words(boot, load);
	load->error = timed_call(boot, load, out > 0);
	if (load->error && fallback) {
		take_originals(boot, load);
		load_originals(boot, load);
		return;
	}
	finish_load(boot, load);
}

/*
 * The megamodule's other members, after one was hit: a write to its parameter `resume` calls the glue again
 * (megamod/prelink/glue_code.py), which passes over all that it has called, and makes the module live at its end.
 */
static void resume_load(struct boot *boot, struct load *load)
{
	u64 start = monotonic_ns();
	TEXT(path, 192);
	long fd;

	log_info("load %s: its other members are run", load->name);
	resume_path(load, &path);
	fd = sys_openat(boot->sys, path.data, O_WRONLY, 0);
	if (fd >= 0)
		write_all((int)fd, "1", 1);
	sys_close((int)fd);
	load->nanoseconds += monotonic_ns() - start;
	load->resuming = false;
	if (is_live(boot, load->name))
		finish_load(boot, load);
	else
		shut_load(boot, load);
}

void resume_path(const struct load *load, struct text *path)
{
	text_format(path, "module/%s/parameters/resume", load->name);
}

void shut_load(struct boot *boot, struct load *load)
{
	log_warning("load %s: the kernel keeps it in state coming until the next boot: nobody can use its symbols",
		    load->name);
	set_fate(boot, load, FATE_OK, FATE_SHUT);
	set_pending(boot, load, FATE_FAILED);
	log_result(boot, load);
}

void make_load(struct boot *boot, struct load *load)
{
	if (load->resuming)
		resume_load(boot, load);
	else if (load->method == METHOD_ORIGINALS)
		load_originals(boot, load);
	else if (load->merged)
		load_merged(boot, load);
	else
		load_by_itself(boot, load);
}
