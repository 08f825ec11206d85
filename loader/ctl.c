/* SPDX-License-Identifier: MIT
 *
 * megamod-ctl, /megamod/ctl in the image and /run/megamod/ctl later. Its first life is that of the stage keeper, which
 * the loader starts under a name that begins with @; then it is a command:
 *
 *   megamod-ctl [--at FOLDER] status [--json] | lsmod | trigger STAGE | take-over
 *
 * FOLDER is where a deployment on the real root has its plan and its state, in place of /megamod and /run.
 *
 * Exit status: 0 done, 1 not done, with the reason logged, 2 for a call that it does not understand.
 */
#include "files.h"
#include "image_files.h"
#include "keeper.h"
#include "log.h"
#include "lsmod.h"
#include "mask.h"
#include "read_plan.h"
#include "run_hook.h"
#include "saved_state.h"
#include "settle.h"
#include "status.h"

static struct boot boot;
static struct keeper keeper;

static void print(const char *s, size_t size)
{
	write_all(1, s, size); /* a reader that has gone has gone */
}

static int open_folder(const char *path)
{
	return (int)sys_openat(AT_FDCWD, path, O_RDONLY | O_DIRECTORY, 0);
}

static void open_folders(const char *run, const char *image, bool hook)
{
	boot.dev = open_folder("/dev");
	boot.proc = open_folder("/proc");
	boot.sys = open_folder("/sys");
	boot.run = open_folder(run);
	boot.image = hook ? -ENOENT : (int)sys_openat(boot.run, "megamod/image", O_RDONLY | O_DIRECTORY, 0);
	if (boot.image < 0)
		boot.image = open_folder(image);
}

static void read_command_line(void)
{
	long err = read_small(boot.proc, "cmdline", boot.cmdline, sizeof(boot.cmdline));

	if (err < 0)
		log_warning("/proc/cmdline cannot be read: %s", errno_name(err));
	read_options(boot.cmdline, &boot.options);
	log_enable_debug(boot.options.debug);
}

/* The plan. */
static bool read_image(void)
{
	read_command_line();
	if (boot.image < 0) {
		log_error("neither /run/megamod/image nor /megamod is there: this system was not booted by megamod");
		return false;
	}
	return read_plan(boot.image, "plan", &boot.plan);
}

/* The plan and what has come of it so far. */
static bool read_plan_and_state(void)
{
	if (!read_image())
		return false;
	if (restore_state(&boot))
		return true;
	log_error(
		"what has been loaded is not known: the file outcome next to the plan cannot be read or belongs to another plan");
	return false;
}

static void prepare_keeper(void)
{
	keeper.boot = keeper.watches.boot = &boot;
	boot.report = report_stage;
	keeper.alive = keeper.watches.inotify = keeper.watches.mounts = boot.control = -1;
	boot.token = boot.probes = boot.ready = -1;
}

/* Started by the loader: handles come with it, the file systems may have moved already. */
static int keeper_main(void)
{
	prepare_keeper();
	boot.dev = PASS_DEV;
	boot.proc = PASS_PROC;
	boot.sys = PASS_SYS;
	boot.run = PASS_RUN;
	boot.image = PASS_IMAGE;
	log_to(boot.dev);
	detach(&keeper);
	if (!read_image())
		return 1;
	if (!restore_state(&boot)) {
		log_warning("/megamod/outcome cannot be read: using /sys/module instead");
		find_loaded(&boot, boot.plan.stages);
	}
	keeper.alive = PASS_ALIVE;
	boot.probes = PASS_PROBES;
	if (boot.plan.handover == HAND_CHAIN)
		prepare_chain(&keeper);
	write_mask(&boot, false);
	write_status(&boot);
	sys_symlinkat("image/ctl", boot.run, "megamod/ctl");
	boot.ready = PASS_READY;
	run_keeper(&keeper);
	return 0;
}

static struct stage *find_stage(const char *name)
{
	u32 i;

	for (i = 1; i < boot.plan.stage_count; i++)
		if (streq(boot.plan.stages[i].name, name))
			return &boot.plan.stages[i];
	log_error("no deferred stage is called %s", name);
	return NULL;
}

/* A handle for writing to the keeper, or a negative errno: -ENXIO and -ENOENT if there is none. */
static long reach_keeper(void)
{
	return sys_openat(boot.run, "megamod/control", O_WRONLY | O_NONBLOCK, 0);
}

static int trigger_stage(const char *name)
{
	const struct stage *s;
	long fd, err;
	TEXT(line, CONTROL_ROOM);

	if (!read_plan_and_state() || !(s = find_stage(name)))
		return 1;
	if (s->state != STATE_WAITING)
		return 0; /* asked for before, or its own trigger was first */
	err = fd = reach_keeper();
	if (err >= 0) {
		text_format(&line, "%s\n", name);
		err = write_all((int)fd, line.data, line.used);
	}
	if (err == -ENXIO || err == -ENOENT)
		log_error("no keeper is running: `megamod-ctl take-over` starts one");
	else if (err < 0)
		log_error("/run/megamod/control: %s", errno_name(err));
	return err < 0;
}

/* Are the files of all stages that wait still there? */
static bool have_files(const struct stage *s)
{
	const struct load *l = boot.plan.loads + s->load, *end = l + s->load_count;
	long fd;

	for (; l < end; l++) {
		fd = open_image_file(&boot, &l->file);
		if (fd < 0) {
			log_error("stage %s cannot be loaded by another keeper: %s: %s", s->name, l->file.path,
				  errno_name(fd));
			return false;
		}
		sys_close((int)fd);
	}
	return true;
}

/* A stage that was being loaded when its keeper was killed is begun again; what already exists is found. */
static int take_over(void)
{
	struct pollfd poll = { .fd = -1, .events = POLLIN };
	u32 i, waiting = 0;
	struct stage *s;
	int ready[2];
	long child;

	if (!read_plan_and_state())
		return 1;
	child = reach_keeper();
	if (child >= 0) {
		log_error("a keeper is already running");
		return 1;
	}
	for (i = 1; i < boot.plan.stage_count; i++) {
		s = &boot.plan.stages[i];
		if (s->state == STATE_LOADING)
			s->state = STATE_WAITING;
		else
			s->fired = s->state == STATE_WAITING ? TRIGGER_NONE : s->fired;
		if (s->state == STATE_WAITING && !have_files(s))
			return 1;
		waiting += s->state == STATE_WAITING;
	}
	if (!waiting)
		return 0;
	child = sys_pipe(ready);
	if (child >= 0)
		child = sys_fork();
	if (child < 0) {
		log_error("no keeper can be started: %s", errno_name(child));
		return 1;
	}
	if (child) {
		/* Whoever asks for a stage after this finds a keeper that hears it. */
		poll.fd = ready[0];
		sys_close(ready[1]);
		sys_ppoll(&poll, 1, &(struct timespec64){ .sec = KEEPER_SECONDS });
		return 0;
	}
	boot.ready = ready[1];
	log_to(boot.dev);
	detach(&keeper);
	run_keeper(&keeper);
	return 0;
}

static int show_file(const char *name)
{
	char block[4096];
	long fd = sys_openat(boot.run, name, O_RDONLY, 0), got;

	if (fd < 0) {
		log_error("/run/%s: %s", name, errno_name(fd));
		return 1;
	}
	while ((got = sys_read((int)fd, block, sizeof(block))) > 0)
		print(block, (size_t)got);
	sys_close((int)fd);
	return got < 0;
}

/* Whoever wonders why a stage does not come finds here what it waits for. */
static void show_paths(void)
{
	const struct stage *s;
	TEXT(line, 512);

	if (boot.image < 0 || !read_plan_and_state())
		return;
	for (s = first_deferred(&boot); s < end_of_stages(&boot); s++) {
		if (s->state != STATE_WAITING || s->trigger != TRIGGER_PATH)
			continue;
		text_reset(&line);
		text_format(&line, "%s waits for %s, ", s->name, s->path);
		if (s->timeout)
			text_format(&line, "%llu ms at most\n", (unsigned long long)s->timeout);
		else
			text_add(&line, "without a timeout\n");
		print(line.data, line.used);
	}
}

static int show_status(void)
{
	static const char head[] = "STAGE STATE ERRNO MS OK FAILED SKIPPED HOW\n";
	long fd;

	print(head, sizeof(head) - 1);
	if (show_file("megamod/status"))
		return 1;
	fd = reach_keeper();
	print(fd >= 0 ? "keeper: runs\n" : "keeper: none\n", 13);
	show_paths();
	return 0;
}

static int show_lsmod(void)
{
	struct text t = { NULL, LSMOD_ROOM, 0, false };

	if (!read_plan_and_state())
		return 1;
	t.data = sys_map(LSMOD_ROOM);
	if (!t.data) {
		log_error("no memory");
		return 1;
	}
	write_lsmod(&boot, &t);
	print(t.data, t.used);
	return 0;
}

static int usage(void)
{
	static const char text[] =
		"usage: megamod-ctl [--at FOLDER] status [--json] | lsmod | trigger STAGE | take-over\n";

	write_all(2, text, sizeof(text) - 1);
	return 2;
}

int main(int argc, char **argv, char **envp)
{
	const char *command, *run = "/run", *image = "/megamod";
	bool hook;

	(void)envp;
	if (argc && argv[0][0] == '@')
		return keeper_main();
	if (argc > 2 && streq(argv[1], "--at")) {
		run = image = argv[2];
		argc -= 2;
		argv += 2;
	}
	command = argc > 1 ? argv[1] : "";
	hook = argc == 2 && streq(command, "--hook");
	boot.argc = argc;
	boot.argv = argv;
	open_folders(run, image, hook);
	prepare_keeper();
	if (hook) {
		log_to(boot.dev);
		read_command_line();
		return run_hook(&keeper);
	}
	if (argc == 2 && streq(command, "status"))
		return show_status();
	if (argc == 3 && streq(command, "status") && streq(argv[2], "--json"))
		return show_file("megamod/status.json");
	if (argc == 2 && streq(command, "lsmod"))
		return show_lsmod();
	if (argc == 3 && streq(command, "trigger"))
		return trigger_stage(argv[2]);
	if (argc == 2 && streq(command, "take-over"))
		return take_over();
	return usage();
}
