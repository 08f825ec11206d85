/* SPDX-License-Identifier: MIT
 *
 * See probes.h.
 *
 * A module is live when its init has returned; then the kernel says so by an event and waits until all asynchronous
 * probes in the system are over (do_init_module() of kernel/module/main.c, 6.1: async_synchronize_full()), and the call
 * comes back only after that: a link of SATA that comes up in half a second keeps an NVMe root waiting. Drivers are
 * probed in the same order, whoever waits. Before 5.11 the event comes too early; then the call is waited for.
 *
 * Parent and child may learn at the same time that the call is over, and both would go on. So there is a pipe with one
 * byte and no writer: who reads the byte goes on.
 */
#include "probes.h"
#include "log.h"
#include "results.h"
#include "uevents.h"

/* It is the last call of the critical stage, so nothing is left that would have to come after the probes. */
static bool is_last(const struct boot *boot, const struct load *load)
{
	const struct stage *critical = boot->plan.stages;

	return load == boot->plan.loads + critical->load + critical->load_count - 1;
}

static bool take_token(const struct boot *boot)
{
	char byte;

	return sys_read(boot->token, &byte, 1) == 1;
}

int watch_modules(struct boot *boot)
{
	int ends[2];
	long events;

	if (!boot->first || !boot->plan.no_probe_wait || boot->token >= 0 || sys_pipe(ends) < 0)
		return -1;
	boot->token = ends[0];
	sys_write(ends[1], "", 1);
	sys_close(ends[1]);
	events = open_module_uevents();
	if (events < 0)
		log_debug("no events of modules: %s", errno_name(events));
	return events < 0 ? -1 : (int)events;
}

void after_call(struct boot *boot, const struct load *load)
{
	if (boot->token >= 0 && is_last(boot, load) && !take_token(boot))
		end_child();
}

bool leave_to_probes(struct boot *boot, struct child *child)
{
	struct progress *p = boot->plan.progress;
	struct load *load = boot->plan.loads + p->load;

	drain_uevents(child->also);
	if (!is_last(boot, load) || load->method != METHOD_OWN || !is_live(boot, load->name) || !take_token(boot))
		return false;
	load->nanoseconds = monotonic_ns() - p->began;
	load->error = 0;
	boot->probes = child->end;
	return true;
}

void wait_for_probes(struct boot *boot)
{
	struct pollfd poll = { .fd = boot->probes, .events = POLLIN };
	struct timespec64 limit = { .sec = (s64)boot->plan.watchdog };

	if (boot->probes < 0)
		return;
	sys_ppoll(&poll, 1, boot->plan.watchdog ? &limit : NULL);
	if (!poll.revents)
		log_warning("probes of the critical stage have not finished after %llu s; continuing without them",
			    (unsigned long long)boot->plan.watchdog);
	sys_close(boot->probes);
	boot->probes = -1;
}
