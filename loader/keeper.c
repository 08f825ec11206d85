/* SPDX-License-Identifier: MIT
 *
 * The stage keeper: a child of PID 1 that stays in the initramfs while the real init starts, and loads each deferred
 * stage when its trigger fires. It is an event loop around ppoll() and ends after the last stage.
 *
 * - Files of deferred loads stay in /megamod, which is not emptied; each goes when its stage has been through.
 * - The read end of a close-on-exec pipe, whose only write end PID 1 has, has its end when the real init is executed.
 * - A stage is loaded when its trigger has fired and every earlier stage that it needs has been through; stages that do
 *   not need each other do not wait for each other.
 */
#include "keeper.h"
#include "image_files.h"
#include "log.h"
#include "mask.h"
#include "modprobe_path.h"
#include "probes.h"
#include "run_stage.h"
#include "saved_state.h"
#include "status.h"
#include "uevents.h"

#define MILLISECOND 1000000ull

enum { LOOK_MILLISECONDS = 1000 };

/* udev looks for a change of the mask only if its last look was 3 s ago (on_uevent, src/udev/udevd.c, 252; 257 too). */
#define ANNOUNCE_MILLISECONDS 3500

static bool has_passed(const struct stage *s)
{
	return s->state == STATE_DONE || s->state == STATE_FAILED;
}

/* ---- files ---- */

/* The files of a stage that has been through are of no use to anybody. */
static void remove_stage_files(struct keeper *k, const struct stage *s)
{
	struct plan *p = &k->boot->plan;
	struct load *l = p->loads + s->load, *end = l + s->load_count;
	u32 i;

	for (; l < end; l++) {
		remove_image_file(k->boot, &l->file);
		if (l->names.path)
			remove_image_file(k->boot, &l->names);
		for (i = 0; i < l->original_count; i++)
			remove_image_file(k->boot, &p->originals[l->originals + i]);
	}
}

/* User space is there: what was needed before it may go. */
static void remove_loaded_files(struct keeper *k)
{
	const struct stage *s;

	for (s = k->boot->plan.stages; s < end_of_stages(k->boot); s++)
		if (has_passed(s))
			remove_stage_files(k, s);
	sys_unlinkat(k->boot->image, "manifest.json", 0);
}

/* ---- triggers ---- */

/* Whoever wonders why a stage does not come finds here what it waits for. */
static void log_paths(const struct keeper *k)
{
	const struct stage *s;

	for (s = first_deferred(k->boot); s < end_of_stages(k->boot); s++) {
		if (!is_pending(s) || s->trigger != TRIGGER_PATH)
			continue;
		if (s->timeout)
			log_info("stage %s waits for %s, %llu ms at most", s->name, s->path,
				 (unsigned long long)s->timeout);
		else
			log_info("stage %s waits for %s, for ever", s->name, s->path);
	}
}

/* The real init is being executed: the clock of delays and timeouts starts here. */
static void start_user_space(struct keeper *k)
{
	u64 t = monotonic_ns();
	struct stage *s;

	sys_close(k->alive);
	k->alive = -1;
	log_debug("user space has started");
	write_status_json(k->boot);
	if (!k->chain)
		remove_loaded_files(k);
	for (s = first_deferred(k->boot); s < end_of_stages(k->boot); s++) {
		if (!is_pending(s))
			continue;
		if (s->timeout)
			s->expires = t + s->timeout * MILLISECOND;
		if (s->trigger == TRIGGER_USERSPACE)
			fire(&k->watches, s, TRIGGER_USERSPACE);
		else if (s->trigger == TRIGGER_DELAY || s->trigger == TRIGGER_IDLE)
			s->due = t + s->milliseconds * MILLISECOND;
		if (s->trigger == TRIGGER_IDLE)
			was_idle(k->boot, s);
	}
	look_for_paths(&k->watches);
	log_paths(k);
}

static void look_at_clock(struct keeper *k)
{
	u64 t = monotonic_ns();
	struct stage *s;

	if (k->look_at && t >= k->look_at) {
		look_for_paths(&k->watches);
		k->look_at = 0;
	}
	if (!k->look_at && k->alive < 0 && must_look(&k->watches))
		k->look_at = t + LOOK_MILLISECONDS * MILLISECOND;
	if (k->announce_at && t >= k->announce_at) {
		k->announce_at = 0;
		announce_devices(k->boot->sys);
	}
	for (s = first_deferred(k->boot); s < end_of_stages(k->boot); s++) {
		if (!is_pending(s))
			continue;
		if (s->due && t >= s->due) {
			if (s->trigger == TRIGGER_DELAY || was_idle(k->boot, s))
				fire(&k->watches, s, s->trigger);
			else
				s->due = t + s->milliseconds * MILLISECOND;
		}
		if (s->fired == TRIGGER_NONE && s->expires && t >= s->expires)
			fire(&k->watches, s, TRIGGER_TIMEOUT);
	}
}

/* A line with a stage's name loads any stage that still waits, whatever it waits for. */
static void take_line(struct keeper *k, const char *line)
{
	struct stage *s;

	for (s = first_deferred(k->boot); s < end_of_stages(k->boot); s++)
		if (streq(s->name, line)) {
			if (is_pending(s))
				fire(&k->watches, s, TRIGGER_MANUAL);
			return;
		}
	log_info("control: no stage is called %s", line);
}

static void read_control(struct keeper *k)
{
	char c;

	while (sys_read(k->boot->control, &c, 1) == 1) {
		if (c == '\n') {
			k->line[k->line_used] = 0;
			if (k->line_used)
				take_line(k, k->line);
			k->line_used = 0;
		} else if (k->line_used < CONTROL_ROOM - 1) { /* a longer line is nobody's name */
			k->line[k->line_used++] = c;
		}
	}
}

/* ---- loading ---- */

static bool needs_others(const struct keeper *k, const struct stage *s)
{
	const struct stage *other;

	for (other = first_deferred(k->boot); other < s; other++)
		if ((s->needs >> (other - k->boot->plan.stages) & 1) && !has_passed(other))
			return true;
	return false;
}

/* Do modules of the tree, in no stage, need one of this stage? */
static bool has_dependents(const struct plan *p, const struct stage *s)
{
	u32 i;

	for (i = 0; i < p->dependents_count; i++)
		if (stage_of(p, p->dependents[i].id) == (u32)(s - p->stages))
			return true;
	return false;
}

void report_stage(struct boot *boot)
{
	save_state(boot);
	write_mask(boot, true); /* who reads that the stage is done finds the mask as it is then */
	write_status(boot);
	write_status_json(boot);
}

static void load_and_report(struct keeper *k, struct stage *s)
{
	s->state = STATE_LOADING;
	save_state(k->boot);
	write_status(k->boot);
	wait_for_probes(k->boot);
	load_stage(k->boot, s, s->fired);
	report_stage(k->boot);
	if (has_dependents(&k->boot->plan, s))
		k->announce_at = monotonic_ns() + ANNOUNCE_MILLISECONDS * MILLISECOND;
	remove_stage_files(k, s);
}

/* Loads what may be loaded; false when nothing is left to wait for. */
static bool load_ready(struct keeper *k)
{
	struct stage *s = first_deferred(k->boot);
	bool left = false;

	while (s < end_of_stages(k->boot)) {
		if (s->state == STATE_WAITING && s->fired != TRIGGER_NONE && !needs_others(k, s)) {
			load_and_report(k, s);
			s = first_deferred(k->boot); /* it may be what another waited for */
			left = false;
			continue;
		}
		left |= s->state == STATE_WAITING;
		s++;
	}
	return left;
}

/* ---- the loop ---- */

static u64 next_time(const struct keeper *k)
{
	const struct stage *s;
	u64 next = k->announce_at;

	if (k->look_at && (!next || k->look_at < next))
		next = k->look_at;
	for (s = first_deferred(k->boot); s < end_of_stages(k->boot); s++) {
		if (!is_pending(s))
			continue;
		if (s->due && (!next || s->due < next))
			next = s->due;
		if (s->expires && (!next || s->expires < next))
			next = s->expires;
	}
	return next;
}

static void wait_and_look(struct keeper *k)
{
	struct pollfd polls[4] = {
		{ .fd = k->alive, .events = POLLIN }, /* a negative handle is left out by the kernel */
		{ .fd = k->watches.inotify, .events = POLLIN },
		{ .fd = k->alive < 0 ? k->watches.mounts : -1, .events = POLLPRI },
		{ .fd = k->boot->control, .events = POLLIN },
	};
	struct timespec64 left = { 0, 0 };
	u64 next = next_time(k), t = monotonic_ns();
	char event[1024];
	u32 rest;

	if (next > t) {
		left.sec = (s64)divide(next - t, 1000000000, &rest);
		left.nsec = rest;
	}
	sys_ppoll(polls, 4, next ? &left : NULL); /* interrupted: revents are 0, and the loop goes round */
	if (polls[0].revents)
		start_user_space(k);
	if (polls[1].revents)
		while (sys_read(k->watches.inotify, event, sizeof(event)) > 0)
			;
	if (polls[1].revents || (polls[2].revents & (POLLPRI | POLLERR)))
		look_for_paths(&k->watches);
	if (polls[3].revents)
		read_control(k);
	look_at_clock(k);
}

static void open_control(struct keeper *k)
{
	long fd, err = sys_mkdirat(k->boot->run, "megamod", 0755);

	if (err < 0 && err != -EEXIST)
		goto failed;
	err = sys_mknodat(k->boot->run, "megamod/control", S_IFIFO | 0600);
	if (err < 0 && err != -EEXIST)
		goto failed;
	/* Open for writing too: without a writer it would be at its end for ever. */
	err = fd = sys_openat(k->boot->run, "megamod/control", O_RDWR | O_NONBLOCK, 0);
	if (err < 0)
		goto failed;
	k->boot->control = (int)fd;
	return;
failed:
	k->boot->control = -1;
	log_warning("/run/megamod/control cannot be made: %s", errno_name(err));
}

void detach(const struct keeper *k)
{
	long null = sys_openat(k->boot->dev, "null", O_RDWR, 0);
	int fd;

	sys_setsid();
	sys_set_name("megamod-keeper");
	for (fd = 0; fd < 3; fd++)
		if (null < 0 || sys_dup3((int)null, fd) < 0)
			sys_close(fd);
	if (null > 2)
		sys_close((int)null);
}

static bool is_over(const struct keeper *k)
{
	return k->boot->options.deferred_off || k->boot->plan.stage_count < 2;
}

void run_keeper(struct keeper *k)
{
	struct stage *s;

	restore_modprobe(k->boot); /* a keeper that was killed may have left it as it was during a call */
	if (!is_over(k)) {
		open_watches(&k->watches);
		open_control(k);
	}
	sys_close(k->boot->ready); /* PID 1 may hand over, and whoever took over may ask for stages */
	if (!is_over(k) && k->boot->plan.dependents_count)
		write_mask(k->boot, true); /* it takes longer than PID 1 should wait for */
	for (s = first_deferred(k->boot); s < end_of_stages(k->boot); s++) {
		if (!is_pending(s))
			continue;
		if (s->trigger == TRIGGER_NOW || k->boot->options.deferred_now)
			s->fired = TRIGGER_NOW;
		else if (s->trigger == TRIGGER_USERSPACE && s->timeout)
			s->expires = monotonic_ns() + s->timeout * MILLISECOND;
	}
	if (k->alive < 0)
		start_user_space(k);
	while ((!is_over(k) && load_ready(k)) || k->alive >= 0 || k->announce_at)
		wait_and_look(k);
	write_status_json(k->boot);
	if (!is_over(k))
		sys_unlinkat(k->boot->run, "megamod/control", 0);
	log_debug("the keeper ends");
}

void prepare_chain(struct keeper *k)
{
	long image;

	if (k->boot->plan.load_count && !is_over(k))
		hold_image_files(k->boot);
	image = copy_image(k->boot);
	if (image >= 0)
		k->boot->image = (int)image;
	k->chain = true;
}
