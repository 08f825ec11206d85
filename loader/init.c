/* SPDX-License-Identifier: MIT
 *
 * The loader: /init in the image, the first program after the kernel. It loads the critical stage, hands over to the
 * root file system or a program in the image, and leaves a keeper behind for the deferred stages. main() is the recipe.
 *
 * As PID 1 it must not end by accident: every failure is logged, then there is a shell if the image has
 * one, and then it ends on purpose, so that the kernel panics and panic= decides what becomes of the machine.
 */
#include "boot.h"
#include "files.h"
#include "run_stage.h"
#include "log.h"
#include "read_plan.h"
#include "root.h"
#include "shell.h"
#include "start_keeper.h"
#include "switch_root.h"

static const struct {
	const char *path, *type, *data;
	unsigned long flags;
} mounts[] = {
	{ "/dev", "devtmpfs", "mode=0755", MS_NOSUID },
	{ "/proc", "proc", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC },
	{ "/sys", "sysfs", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC },
	{ "/run", "tmpfs", "mode=0755,size=20%", MS_NOSUID | MS_NODEV },
};

/* Makes and mounts one of these folders and returns a handle on it; what cannot be mounted is used as it is. */
static int mount_one(u32 i)
{
	long err = sys_mkdirat(AT_FDCWD, mounts[i].path, 0755);

	if (err >= 0 || err == -EEXIST)
		err = sys_mount(mounts[i].type, mounts[i].path, mounts[i].type, mounts[i].flags, mounts[i].data);
	if (err < 0 && err != -EBUSY) /* -EBUSY: mounted already */
		log_warning("%s cannot be mounted: %s", mounts[i].path, errno_name(err));
	return (int)sys_openat(AT_FDCWD, mounts[i].path, O_RDONLY | O_DIRECTORY, 0);
}

/*
 * The kernel opens /dev/console for us only if the initramfs has that node (console_on_rootfs, init/main.c, 6.1).
 * Where it has not, the three numbers are taken before anything else can get them. True if that was necessary.
 */
static bool hold_streams(void)
{
	struct statx st;
	long fd;

	if (sys_statx(0, "", AT_EMPTY_PATH, &st) >= 0)
		return false;
	do
		fd = sys_openat(AT_FDCWD, "/", O_RDONLY | O_DIRECTORY, 0);
	while (fd >= 0 && fd < 3);
	if (fd >= 0)
		sys_close((int)fd);
	return true;
}

static void open_console(int dev)
{
	long fd = sys_openat(dev, "console", O_RDWR, 0);
	int stream;

	if (fd < 0)
		fd = sys_openat(dev, "null", O_RDWR, 0);
	if (fd < 0)
		return; /* init gets none */
	for (stream = 0; stream < 3; stream++)
		sys_dup3((int)fd, stream);
	sys_close((int)fd);
}

static void mount_all(struct boot *boot)
{
	bool bare = hold_streams();

	boot->dev = mount_one(0);
	log_to(boot->dev);
	boot->proc = mount_one(1);
	boot->sys = mount_one(2);
	boot->run = mount_one(3);
	boot->image = (int)sys_openat(AT_FDCWD, "/megamod", O_RDONLY | O_DIRECTORY, 0);
	if (bare)
		open_console(boot->dev);
}

static void read_command_line(struct boot *boot)
{
	long err = read_small(boot->proc, "cmdline", boot->cmdline, sizeof(boot->cmdline));

	if (err < 0)
		log_warning("/proc/cmdline cannot be read: %s", errno_name(err));
	read_options(boot->cmdline, &boot->options);
	log_enable_debug(boot->options.debug);
}

/* How long the processor has run: the kernel's clock begins later, after firmware and decompression. */
static void log_counter(const struct boot *boot)
{
	u64 hertz, count = sys_counter(&hertz);

	if (boot->options.times && count)
		log_info("counter %llu of %llu a second", (unsigned long long)count, (unsigned long long)hertz);
}

static void load_critical(struct boot *boot)
{
	struct stage *critical = &boot->plan.stages[0];

	if (boot->options.off && !boot->plan.fallback) {
		log_info("off: nothing is loaded");
		return;
	}
	load_stage(boot, critical, TRIGGER_NOW);
	if (critical->state == STATE_FAILED)
		log_error("the critical stage failed; continuing with the kernel's built-in drivers");
	start_keeper(boot);
}

/* Returns only if it failed, and has logged why. */
static void hand_over(struct boot *boot)
{
	static bool mounted; /* a second attempt may come after the mount */
	const struct plan *p = &boot->plan;

	switch (p->handover) {
	case HAND_CMDLINE:
		break_at(boot, "pre-mount");
		if (!mounted)
			mounted = mount_root(boot, p->stages[0].state == STATE_FAILED);
		if (!mounted)
			return;
		break_at(boot, "pre-switch");
		wait_for_keeper(boot);
		switch_root(boot);
		return;
	case HAND_EXEC:
	case HAND_CHAIN:
		break_at(boot, "pre-switch");
		wait_for_keeper(boot);
		exec_program(boot, p->command, p->handover == HAND_CHAIN);
	}
}

int main(int argc, char **argv, char **envp)
{
	static struct boot boot;

	boot.alive = boot.ready = boot.control = boot.token = boot.probes = -1;
	boot.first = true;
	boot.argc = argc;
	boot.argv = argv;
	boot.envp = envp;
	if (sys_getpid() != 1) {
		if (argc == 2 && streq(argv[1], "--hook"))
			sys_execve("/megamod/ctl", argv, envp);
		log_error("%s must be the first program of a boot (process 1)", argc ? argv[0] : "init");
		return 1;
	}
	mount_all(&boot);
	log_info("start");
	read_command_line(&boot);
	log_counter(&boot);
	if (!read_plan(boot.image, "plan", &boot.plan)) {
		last_resort(&boot);
		goto panic;
	}
	break_at(&boot, "pre-load");
	load_critical(&boot);
	do
		hand_over(&boot);
	while (last_resort(&boot));
panic:
	give_up(&boot);
	return 1;
}
