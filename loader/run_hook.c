/* SPDX-License-Identifier: MIT
 *
 * `megamod-init --hook`: the critical stage for an init that is not ours. A hook or unit of another generator's
 * initramfs runs it once /dev, /proc and /sys are mounted. It may run again: what is loaded is not loaded twice, and
 * the mask and the status are written anew, into the /run of that moment (initramfs-tools and mkinitcpio mount a fresh
 * one over the first).
 */
#include "run_hook.h"
#include "log.h"
#include "mask.h"
#include "read_plan.h"
#include "run_stage.h"
#include "saved_state.h"
#include "settle.h"
#include "status.h"

int run_hook(struct keeper *k)
{
	struct boot *boot = k->boot;
	struct stage *critical = &boot->plan.stages[0];
	long child = 0;

	if (boot->proc < 0 || boot->sys < 0) {
		log_error("/proc and /sys must be mounted before this");
		return 1;
	}
	if (!read_plan(boot->image, "plan", &boot->plan))
		return 1;
	if (find_loaded(boot, critical)) {
		write_mask(boot, true);
		write_status(boot);
		return 0;
	}
	if (boot->options.off && !boot->plan.fallback) {
		log_info("off: nothing is loaded");
		return 0;
	}
	forget_loaded(boot, critical);
	load_stage(boot, critical, TRIGGER_NOW);
	report_stage(boot);
	prepare_chain(k);
	if (boot->plan.stage_count > 1)
		child = sys_fork();
	else
		write_status_json(boot);
	if (child < 0)
		log_error("the deferred stages are not loaded: fork: %s", errno_name(child));
	if (!child && boot->plan.stage_count > 1) {
		detach(k);
		run_keeper(k);
	}
	return critical->state == STATE_FAILED;
}
