/* SPDX-License-Identifier: MIT
 *
 * See run_stage.h. The loads of a stage are made in a child, one child for all of them as long as nothing goes wrong.
 * When it ends in the middle of a call, or nothing happens for as long as the plan's watchdog says, it is settled who
 * was hit (settle.c), and another child goes on.
 */
#include "run_stage.h"
#include "load.h"
#include "log.h"
#include "modprobe_path.h"
#include "probes.h"
#include "results.h"
#include "settle.h"
#include "times.h"

#define SECOND 1000000000ull

enum { LOOKS = 4 /* while nothing happens, before a call is given up */ };

/* ---- in the child ---- */

/* Everything from the load where boot->plan.progress stands to the end of its stage. */
static void make_loads(struct boot *boot)
{
	struct progress *p = boot->plan.progress;
	struct stage *stage = boot->plan.stages + p->stage;
	u32 end = stage->load + stage->load_count;
	bool critical = stage == boot->plan.stages;
	struct load *load;

	if (critical)
		exchange_modprobe(boot, NO_MODPROBE);
	for (; p->load < end; p->load++, p->original = 0) {
		load = boot->plan.loads + p->load;
		p->began = monotonic_ns();
		if (!critical && load->modprobe) {
			exchange_modprobe(boot, load->modprobe);
			if (load->modprobe[0] != '/')
				log_info("load %s: request_module is off during this call", load->name);
		}
		make_load(boot, load);
		if (!critical && load->modprobe)
			restore_modprobe(boot);
	}
	if (critical)
		restore_modprobe(boot);
}

static void count_finished(struct boot *boot)
{
	boot->plan.progress->finished = count_results(boot, present_load(boot));
}

/* ---- the watchdog ---- */

/* Has the child come further than when this was asked last? */
static bool has_moved(struct boot *boot, struct progress *before)
{
	const struct progress *now = boot->plan.progress;
	const struct load *load = present_load(boot);

	if (load->merged && load->method == METHOD_OWN && load->results)
		in_child(boot, count_finished, READING_SECONDS);
	if (now->load == before->load && now->original == before->original && now->finished == before->finished)
		return false;
	*before = *now;
	return true;
}

static enum ending watch(struct boot *boot, struct child *child)
{
	u64 slice = divide(boot->plan.watchdog * SECOND, LOOKS, NULL);
	struct progress before = *boot->plan.progress;
	enum ending ending;
	u32 idle = 0;

	while (idle < LOOKS) {
		ending = wait_child(boot, child, slice);
		if (ending == ENDING_EVENT && leave_to_probes(boot, child))
			return ENDING_PROBES;
		if (ending == ENDING_EVENT)
			continue;
		if (ending != ENDING_NONE)
			return ending;
		idle = has_moved(boot, &before) ? 0 : idle + 1;
	}
	log_warning("load %s: no progress for %llu s", present_load(boot)->name,
		    (unsigned long long)boot->plan.watchdog);
	return give_up_child(boot, child);
}

/* A keeper that was killed left a child behind, which may still come to its end. */
static void wait_while_coming(struct boot *boot, const struct load *load)
{
	u64 until = monotonic_ns() + boot->plan.watchdog * SECOND;

	if (!load->merged || module_state(boot, load->name) != MODULE_COMING)
		return;
	log_info("load %s: is already being loaded; waiting %llu s at most", load->name,
		 (unsigned long long)boot->plan.watchdog);
	while (module_state(boot, load->name) == MODULE_COMING && monotonic_ns() < until)
		sys_ppoll(NULL, 0, &(struct timespec64){ .nsec = 100000000 });
}

static void end_stage(struct boot *boot, struct stage *stage)
{
	const struct load *load = boot->plan.loads + stage->load, *end = load + stage->load_count;
	bool refused = false;
	struct counts counts;

	for (; load < end; load++)
		refused |= load->error && load->merged && load->method == METHOD_OWN;
	count_stage(boot, stage, &counts);
	stage->state = refused || (!counts.ok && counts.failed) ? STATE_FAILED : STATE_DONE;
	log_info("stage %s done", stage->name);
}

/* From where boot->plan.progress stands to the end of the stage, or to where a child ends before. */
static enum ending go_on(struct boot *boot, struct stage *stage)
{
	struct load *load = present_load(boot);
	long parent = sys_getpid(), err;
	enum ending ending;
	struct child child;
	int events;

	if (!boot->first && !load->resuming) {
		wait_while_coming(boot, load);
		if (load->merged && load->method != METHOD_ORIGINALS && module_state(boot, load->name) == MODULE_COMING)
			return ENDING_HUNG;
	}
	events = watch_modules(boot);
	err = start_child(boot, &child);
	child.also = events;
	if (err > 0) {
		ending = watch(boot, &child);
		sys_close(events);
		return ending;
	}
	if (err < 0)
		log_warning("cannot start a process for the calls: %s", errno_name(err));
	make_loads(boot);
	if (err < 0)
		return ENDING_GOOD;
	/* The keeper was killed meanwhile: what it would do now is done here. */
	if (boot->report && sys_getppid() != parent) {
		end_stage(boot, stage);
		boot->report(boot);
	}
	end_child();
}

void load_stage(struct boot *boot, struct stage *stage, enum trigger fired)
{
	u32 end = stage->load + stage->load_count;
	struct progress *p = boot->plan.progress;
	enum ending ending;

	log_info("stage %s triggered by %s", stage->name, trigger_name(fired));
	log_cpu_time(boot);
	p->stage = (u32)(stage - boot->plan.stages);
	p->load = stage->load;
	p->original = p->finished = 0;
	while (p->load < end) {
		ending = go_on(boot, stage);
		if (ending == ENDING_GOOD)
			break;
		if (ending == ENDING_PROBES) {
			finish_load(boot, present_load(boot));
			restore_modprobe(boot);
			break;
		}
		settle(boot, ending);
	}
	end_stage(boot, stage);
}
