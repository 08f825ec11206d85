/* SPDX-License-Identifier: MIT
 *
 * See settle.h. The member that was hit is found by the results that the glue has written so far.
 *
 * After an oops the kernel keeps the module in state coming for ever (load_module() of kernel/module/main.c, 6.1, has
 * not returned): whoever needs one of its symbols waits 30 seconds and fails (resolve_symbol_wait), whoever loads a
 * module of that name waits for ever (add_unformed_module), and what it exports nobody else may export. Reading its
 * parameters takes a lock that a parameter's own setter may hold for ever (kernel_param_lock, kernel/params.c). So that
 * is done in a child, too.
 */
#include "settle.h"
#include "files.h"
#include "load.h"
#include "log.h"
#include "modprobe_path.h"
#include "results.h"

/* ---- in a child ---- */

static void read_partly(struct boot *boot)
{
	boot->plan.progress->original = read_partial_results(boot, present_load(boot));
}

static void read_module_list(struct boot *boot)
{
	char block[4096];
	long fd = sys_openat(boot->proc, "modules", O_RDONLY, 0);

	while (fd >= 0 && sys_read((int)fd, block, sizeof(block)) > 0)
		;
}

/* ---- a load that was hit ---- */

/* Is the kernel's list of modules locked for ever? Then nothing can be loaded any more. */
static void look_for_lock(struct boot *boot)
{
	if (boot->plan.progress->locked || in_child(boot, read_module_list, READING_SECONDS) != ENDING_HUNG)
		return;
	boot->plan.progress->locked = true;
	log_error("the kernel's module lock is stuck: modules cannot be loaded or listed until the next boot");
}

/* The glue's parameter, where the kernel and the members allow it (megamod/prelink/glue.py). */
static bool can_resume(struct boot *boot)
{
	TEXT(path, 192);

	resume_path(present_load(boot), &path);
	return sys_faccessat(boot->sys, path.data, 0) >= 0;
}

static void hit_member(struct member *m, enum ending ending)
{
	m->fate = FATE_FAILED;
	m->result = (int)ending_errno(ending);
	log_warning("%s the init of %s", ending_text(ending), m->name);
	log_warning("member %s failed: -%s", m->name, errno_name(m->result));
}

/* The call was made, inits have run, and it has not come to its end. */
static void settle_coming(struct boot *boot, struct load *load, enum ending ending)
{
	u32 *hit = &boot->plan.progress->original;

	load->error = 0;
	*hit = load->member_count;
	if (in_child(boot, read_partly, READING_SECONDS) != ENDING_GOOD || *hit == load->member_count)
		log_warning("load %s: %s it, and the member that was hit is not known", load->name,
			    ending_text(ending));
	else
		hit_member(members_of(boot, load) + *hit, ending);
	load->resuming = *hit < load->member_count && can_resume(boot);
	*hit = 0;
	if (load->resuming)
		return;
	/* Once an init is certain not to come back, those that have not run can go in by themselves: as far as they
	 * need nothing of the megamodule, and export nothing. */
	if (load->original_count && ending != ENDING_HUNG) {
		set_fate(boot, load, FATE_OK, FATE_SHUT);
		take_originals(boot, load);
		return;
	}
	shut_load(boot, load);
}

/* A call that was begun and from which no child has come back. True if the load goes on. */
static bool settle_merged(struct boot *boot, struct load *load, enum ending ending)
{
	enum module_state state = module_state(boot, load->name);

	if (state == MODULE_LIVE) { /* it was over, but for waiting for probes, or the child's last steps */
		load->error = 0;
		finish_load(boot, load);
		return false;
	}
	if (state == MODULE_COMING) {
		settle_coming(boot, load, ending);
		return load->resuming || load->method == METHOD_ORIGINALS;
	}
	load->error = (int)-ending_errno(ending);
	log_warning("load %s failed: %s (%s)", load->name, errno_name(load->error), errno_text(load->error));
	if (!load->original_count) {
		finish_load(boot, load);
		return false;
	}
	take_originals(boot, load);
	return true;
}

static void settle_one(struct boot *boot, struct load *load, struct member *m, enum ending ending)
{
	if (module_state(boot, m->name) == MODULE_LIVE) {
		m->fate = FATE_OK;
		return;
	}
	if (load->method == METHOD_OWN)
		load->error = (int)-ending_errno(ending);
	hit_member(m, ending);
}

/* Notes what became of the load where the child stood, and moves on. */
void settle(struct boot *boot, enum ending ending)
{
	struct progress *p = boot->plan.progress;
	struct load *load = present_load(boot);
	struct member *m = members_of(boot, load);

	restore_modprobe(boot);
	load->nanoseconds += monotonic_ns() - p->began + 1;
	p->began = monotonic_ns();
	look_for_lock(boot);
	if (load->method == METHOD_ORIGINALS && p->original < load->member_count) {
		settle_one(boot, load, m + p->original++, ending);
		return;
	}
	if (load->method == METHOD_ORIGINALS)
		; /* it was through with them */
	else if (!load->merged)
		settle_one(boot, load, m, ending);
	else if (settle_merged(boot, load, ending))
		return;
	p->load++;
	p->original = 0;
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
		if (load->merged && module_state(boot, load->name) == MODULE_COMING) {
			any = true;
			load->method = METHOD_OWN;
			mark_skipped(boot, load);
			boot->plan.progress->load = stage->load + n;
			in_child(boot, read_partly, READING_SECONDS);
			set_fate(boot, load, FATE_OK, FATE_SHUT);
			set_pending(boot, load, FATE_FAILED);
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

void forget_loaded(struct boot *boot, const struct stage *stage)
{
	struct load *load = boot->plan.loads + stage->load, *end = load + stage->load_count;
	struct member *m;

	for (; load < end; load++) {
		load->method = METHOD_NONE;
		for (m = members_of(boot, load); m < members_of(boot, load) + load->member_count; m++)
			m->fate = FATE_PENDING;
	}
}
