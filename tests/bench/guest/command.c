/*
 * command.c: the user space of a measurement of somebody else's tool. Linked statically, it is /init.
 *
 * Runs the lines of /commands one after another, each a path and arguments without quotes, and waits for each; a line
 * `load FILE` is a finit_module of its own. Then it prints what guest.h names, and
 *
 *   elapsed NANOSECONDS            from before the first to after the last
 *   name MODULE                    each module that is loaded
 */
#include "guest.h"

#include <sys/wait.h>

#define COMMANDS 1024
#define WORDS 512

static char text[1 << 16];

static void run(char *line)
{
	char *words[WORDS + 1];
	int count = 0, status;
	pid_t child;

	for (char *word = strtok(line, " "); word && count < WORDS; word = strtok(NULL, " "))
		words[count++] = word;
	words[count] = NULL;
	if (!strcmp(words[0], "load")) {
		int fd = open(words[1], O_RDONLY | O_CLOEXEC);

		if (fd < 0 || syscall(SYS_finit_module, fd, "", 0))
			finish("failed: a load");
		close(fd);
		return;
	}
	child = vfork();
	if (!child) {
		execv(words[0], words);
		_exit(127);
	}
	if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status))
		finish("failed: a command");
	/* modprobe fails for a module whose init does, for want of its device, and goes on in that form only. */
	if (WEXITSTATUS(status) == 127)
		finish("failed: a command cannot be run");
}

static int read_commands(char **lines)
{
	int fd = open("/commands", O_RDONLY), count = 0;
	long size = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (size < 0)
		finish("failed: no /commands");
	for (char *line = text; *line && count < COMMANDS;) {
		char *end = strchr(line, '\n');

		lines[count++] = line;
		if (!end)
			break;
		*end = 0;
		line = end + 1;
	}
	return count;
}

static void print_names(void)
{
	FILE *file = fopen("/proc/modules", "r");
	char line[1024];

	while (file && fgets(line, sizeof(line), file))
		printf("name %.*s\n", (int)strcspn(line, " "), line);
	if (file)
		fclose(file);
}

int main(void)
{
	static char *lines[COMMANDS];
	struct memory before, after;
	long long start, elapsed;
	int count;

	mount_all();
	mkdir("/run", 0755);
	mkdir("/tmp", 0755);
	if (mount("devtmpfs", "/dev", "devtmpfs", 0, NULL) || mount("tmpfs", "/run", "tmpfs", 0, NULL))
		finish("failed: mount");
	setenv("PATH", "/usr/sbin:/usr/bin", 1);
	stop_modprobe();
	count = read_commands(lines);
	settle();
	before = memory_now();
	start = now();
	for (int i = 0; i < count; i++)
		run(lines[i]);
	elapsed = now() - start;
	settle();
	after = memory_now();
	printf("elapsed %lld\n", elapsed);
	print_memory(before, after);
	print_names();
	print_initcalls();
	finish("end");
}
