/* SPDX-License-Identifier: MIT
 *
 * The start of the stage keeper: a child of PID 1 that becomes /megamod/ctl. It gets handles on the file systems, so it
 * does not matter where they are mounted by then, and the read end of a close-on-exec pipe whose only write end PID 1
 * has: its end tells that the real init has been executed.
 *
 * The keeper writes mask and status while PID 1 looks for the root; before PID 1 hands over it waits for that.
 *
 * /megamod stays reachable as /run/megamod/image after the switch of the root: a bind mount, so nothing is copied. With
 * `chain` the next generator empties the initramfs: there the keeper holds its files open and copies what is small.
 */
#include "start_keeper.h"
#include "log.h"
#include "saved_state.h"

#define PROGRAM "/megamod/ctl"

static void bind_image(const struct boot *boot)
{
	long err;

	sys_mkdirat(boot->run, "megamod", 0755);
	err = sys_mkdirat(boot->run, "megamod/image", 0755);
	if (err >= 0 || err == -EEXIST)
		err = sys_mount("/megamod", "/run/megamod/image", NULL, MS_BIND, NULL);
	if (err < 0)
		log_debug("/run/megamod/image cannot be made: %s", errno_name(err));
}

_Noreturn static void become_keeper(const struct boot *boot, int alive, int ready)
{
	/* argv[0] begins with @: systemd leaves such a process alone (ROOT_STORAGE_DAEMONS in its documentation). */
	char *argv[] = { (char[]){ "@megamod-keeper" }, NULL };
	const int handles[] = { boot->dev, boot->proc, boot->sys, boot->run, boot->image, alive, ready, boot->probes };
	long err;
	u32 i;

	for (i = 0; i < sizeof(handles) / sizeof(handles[0]); i++)
		if (handles[i] >= 0)
			sys_dup3(handles[i], PASS_DEV + (int)i); /* without close-on-exec */
	err = sys_execve(PROGRAM, argv, argv + 1);
	log_error(PROGRAM " cannot be executed: %s", errno_name(err));
	sys_exit(127);
}

void start_keeper(struct boot *boot)
{
	bool chain = boot->plan.handover == HAND_CHAIN;
	int alive[2] = { -1, -1 }, ready[2] = { -1, -1 };
	long child, err = sys_faccessat(AT_FDCWD, PROGRAM, X_OK);

	if (err < 0)
		goto failed;
	if (!chain)
		bind_image(boot);
	save_state(boot);
	err = sys_pipe(alive);
	if (err >= 0)
		err = sys_pipe(ready);
	if (err >= 0)
		err = child = sys_fork();
	if (err < 0)
		goto failed;
	if (!child)
		become_keeper(boot, alive[0], ready[1]);
	boot->alive = alive[1]; /* close-on-exec */
	boot->ready = ready[0];
	boot->kept = !chain;
	sys_close(alive[0]);
	sys_close(ready[1]);
	sys_close(boot->probes);
	return;
failed:
	log_error(PROGRAM ": %s: no mask, no status, and nothing that is deferred is loaded", errno_name(err));
	sys_close(alive[0]);
	sys_close(alive[1]);
}

void wait_for_keeper(struct boot *boot)
{
	struct pollfd poll = { .fd = boot->ready, .events = POLLIN };

	if (boot->ready < 0)
		return;
	sys_ppoll(&poll, 1, &(struct timespec64){ .sec = KEEPER_SECONDS });
	if (!poll.revents)
		log_error("the stage keeper did not start within %u s: mask and status may be missing", KEEPER_SECONDS);
	sys_close(boot->ready);
	boot->ready = -1;
}
