/* SPDX-License-Identifier: MIT
 *
 * megamod-ctl, /megamod/ctl in the image and /run/megamod/ctl later. Its first life is that of the stage keeper, which
 * the loader starts under a name that begins with @; then it is a command:
 *
 *   megamod-ctl [--at FOLDER] status [--json] | lsmod | trigger STAGE | take-over
 *
 * FOLDER is where a deployment on the real root has its plan and its state, in place of /megamod and /run.
 *
 * Exit status: 0 done, 1 not done, and it has said why, 2 for a call that it does not understand.
 */
#include "keeper.h"
#include "list.h"
#include "say.h"

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
		warn("/proc/cmdline cannot be read: %s", errno_name(err));
	read_options(boot.cmdline, &boot.options);
	say_debug(boot.options.debug);
}

/* The plan. */
static bool read_image(void)
{
	read_command_line();
	if (boot.image < 0) {
		error("neither /run/megamod/image nor /megamod is there: this system was not booted by megamod");
		return false;
	}
	return read_plan(boot.image, "plan", &boot.plan);
}

/* The plan and what has come of it so far. */
static bool read_all(void)
{
	if (!read_image())
		return false;
	if (restore_outcome(&boot))
		return true;
	error("what has been loaded is not known: the file outcome beside the plan cannot be read, or is of another plan");
	return false;
}

static void no_keeper(void)
{
	keeper.boot = &boot;
	keeper.alive = keeper.inotify = keeper.mounts = keeper.control = -1;
}

/* Started by the loader: handles come with it, the file systems may have moved already. */
static int be_keeper(void)
{
	no_keeper();
	boot.dev = PASS_DEV;
	boot.proc = PASS_PROC;
	boot.sys = PASS_SYS;
	boot.run = PASS_RUN;
	boot.image = PASS_IMAGE;
	say_through(boot.dev);
	detach(&keeper);
	if (!read_image())
		return 1;
	if (!restore_outcome(&boot)) {
		warn("/megamod/outcome cannot be read: /sys/module tells what is there");
		find_loaded(&boot, boot.plan.stages);
	}
	keeper.alive = PASS_ALIVE;
	if (boot.plan.handover == HAND_CHAIN)
		prepare_chain(&keeper);
	write_mask(&boot, false);
	write_status(&boot);
	sys_symlinkat("image/ctl", boot.run, "megamod/ctl");
	sys_close(PASS_READY); /* PID 1 may hand over */
	keep(&keeper);
	return 0;
}

static struct stage *find_stage(const char *name)
{
	u32 i;

	for (i = 1; i < boot.plan.stage_count; i++)
		if (same(boot.plan.stages[i].name, name))
			return &boot.plan.stages[i];
	error("no deferred stage is called %s", name);
	return NULL;
}

/* A handle for writing to the keeper, or a negative errno: -ENXIO and -ENOENT if there is none. */
static long reach_keeper(void)
{
	return sys_openat(boot.run, "megamod/control", O_WRONLY | O_NONBLOCK, 0);
}

static int trigger(const char *name)
{
	const struct stage *s;
	long fd, err;
	TEXT(line, CONTROL_ROOM);

	if (!read_all() || !(s = find_stage(name)))
		return 1;
	if (s->state != STATE_WAITING)
		return 0; /* asked for before, or its own trigger was first */
	err = fd = reach_keeper();
	if (err >= 0) {
		text_format(&line, "%s\n", name);
		err = write_all((int)fd, line.data, line.used);
	}
	if (err == -ENXIO || err == -ENOENT)
		error("no keeper runs: `megamod-ctl take-over` starts one");
	else if (err < 0)
		error("/run/megamod/control: %s", errno_name(err));
	return err < 0;
}

/* Are the files of all stages that wait still there? */
static bool have_files(const struct stage *s)
{
	const struct load *l = boot.plan.loads + s->load, *end = l + s->load_count;
	long fd;

	for (; l < end; l++) {
		fd = open_held(&boot, &l->file);
		if (fd < 0) {
			error("stage %s cannot be loaded by another keeper: %s: %s", s->name, l->file.path,
			      errno_name(fd));
			return false;
		}
		sys_close((int)fd);
	}
	return true;
}

/* A stage that was being loaded when its keeper was killed is begun again; what is there already is found. */
static int take_over(void)
{
	u32 i, waiting = 0;
	struct stage *s;
	long child;

	if (!read_all())
		return 1;
	child = reach_keeper();
	if (child >= 0) {
		error("a keeper runs already");
		return 1;
	}
	for (i = 1; i < boot.plan.stage_count; i++) {
		s = &boot.plan.stages[i];
		if (s->state == STATE_LOADING)
			s->state = STATE_WAITING;
		else
			s->fired = s->state == STATE_WAITING ? KIND_NONE : s->fired;
		if (s->state == STATE_WAITING && !have_files(s))
			return 1;
		waiting += s->state == STATE_WAITING;
	}
	if (!waiting)
		return 0;
	child = sys_fork();
	if (child < 0) {
		error("fork: %s", errno_name(child));
		return 1;
	}
	if (child)
		return 0;
	say_through(boot.dev);
	detach(&keeper);
	keep(&keeper);
	return 0;
}

static int show_file(const char *name)
{
	char block[4096];
	long fd = sys_openat(boot.run, name, O_RDONLY, 0), got;

	if (fd < 0) {
		error("/run/%s: %s", name, errno_name(fd));
		return 1;
	}
	while ((got = sys_read((int)fd, block, sizeof(block))) > 0)
		print(block, (size_t)got);
	sys_close((int)fd);
	return got < 0;
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
	return 0;
}

static int list_modules(void)
{
	struct text t = { NULL, LIST_ROOM, 0, false };

	if (!read_all())
		return 1;
	t.data = sys_map(LIST_ROOM);
	if (!t.data) {
		error("no memory");
		return 1;
	}
	write_list(&boot, &t);
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
		return be_keeper();
	if (argc > 2 && same(argv[1], "--at")) {
		run = image = argv[2];
		argc -= 2;
		argv += 2;
	}
	command = argc > 1 ? argv[1] : "";
	hook = argc == 2 && same(command, "--hook");
	open_folders(run, image, hook);
	no_keeper();
	if (hook) {
		say_through(boot.dev);
		read_command_line();
		return run_hook(&keeper);
	}
	if (argc == 2 && same(command, "status"))
		return show_status();
	if (argc == 3 && same(command, "status") && same(argv[2], "--json"))
		return show_file("megamod/status.json");
	if (argc == 2 && same(command, "lsmod"))
		return list_modules();
	if (argc == 3 && same(command, "trigger"))
		return trigger(argv[2]);
	if (argc == 2 && same(command, "take-over"))
		return take_over();
	return usage();
}
