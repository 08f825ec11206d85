/*
 * loadall.c: the whole user space of a load measurement. Linked statically, it is /init.
 *
 * Loads the modules that /list names, in that order, one finit_module each, and times each call with CLOCK_MONOTONIC.
 * Nothing is printed before the last call has returned. Then, one line each on the console:
 *
 *   load NAME NANOSECONDS ERRNO    a call's time and result (0 or positive errno)
 *   memory BEFORE AFTER            free memory in KiB
 *   modules COUNT                  lines of /proc/modules
 *   parameter NAME FILE VALUE      nanoseconds* and result* of a megamodule
 *   initcall NAME RESULT USECS     with initcall_debug on the kernel command line; NAME is ? where no symbol is left
 *   symbol ADDRESS NAME            with show_symbols=1 there: the kernel's functions
 *   end
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MODULES 1024

struct module {
	char path[128];
	const char *name;
	int fd;
	int error;
	long long nanoseconds;
};

static struct module modules[MODULES];
static char log_buffer[1 << 24];

/* where.py counts instructions between these two. */
__attribute__((noinline)) void measure_begin(void)
{
	__asm__ volatile("nop");
}

__attribute__((noinline)) void measure_end(void)
{
	__asm__ volatile("nop; nop");
}

static void finish(const char *text)
{
	printf("%s\n", text);
	fflush(stdout);
	sync();
	reboot(RB_POWER_OFF);
	for (;;)
		pause();
}

static long long now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000LL + time.tv_nsec;
}

/*
 * Let deferred work end: freed init sections, RCU callbacks, the kernel's own start, and what an init leaves to other
 * threads (ecdh_generic's self-tests, 0.2 s on 6.12): it would run during the next call, or the next init, as it happens.
 */
static void settle(void)
{
	struct timespec time = { .tv_sec = 1 };

	nanosleep(&time, NULL);
}

/* Sum of the numbers after each occurrence of a word at the start of a line. */
static long sum_lines(const char *path, const char *word)
{
	FILE *file = fopen(path, "r");
	char line[256];
	long sum = 0;

	while (file && fgets(line, sizeof(line), file)) {
		char *start = line + strspn(line, " ");

		if (!strncmp(start, word, strlen(word)))
			sum += atol(start + strlen(word));
	}
	if (file)
		fclose(file);
	return sum;
}

/*
 * MemAvailable, in KiB, with the free pages that lie in per-processor lists: up to 30 MiB that the kernel does not
 * count as free, more or less of it after large frees (mm/page_alloc.c free_unref_page_commit()).
 */
static long available(void)
{
	return sum_lines("/proc/meminfo", "MemAvailable:") +
	       sum_lines("/proc/zoneinfo", "count:") * sysconf(_SC_PAGESIZE) / 1024;
}

static int read_list(void)
{
	FILE *file = fopen("/list", "r");
	int count = 0;

	if (!file)
		finish("failed: no /list");
	while (count < MODULES && fscanf(file, "%127s", modules[count].path) == 1) {
		struct module *module = &modules[count++];

		module->name = strrchr(module->path, '/') + 1;
		module->fd = open(module->path, O_RDONLY | O_CLOEXEC);
		if (module->fd < 0)
			finish("failed: a module is not there");
	}
	fclose(file);
	return count;
}

static void load_all(int count)
{
	for (int i = 0; i < count; i++) {
		struct module *module = &modules[i];
		long long start = now();
		long result;

		measure_begin();
		result = syscall(SYS_finit_module, module->fd, "", 0);
		measure_end();
		module->error = result ? errno : 0;
		module->nanoseconds = now() - start;
		settle();
	}
}

static void print_file(const char *name, const char *parameter)
{
	char path[256], value[8192];
	FILE *file;

	snprintf(path, sizeof(path), "/sys/module/%.*s/parameters/%s", (int)strcspn(name, "."), name, parameter);
	file = fopen(path, "r");
	if (!file)
		return;
	if (fgets(value, sizeof(value), file))
		printf("parameter %.*s %s %s", (int)strcspn(name, "."), name, parameter, value);
	fclose(file);
}

static void print_parameters(const char *name)
{
	char parameter[32];

	for (int i = 0; i < 16; i++) {
		snprintf(parameter, sizeof(parameter), i ? "nanoseconds%d" : "nanoseconds", i);
		print_file(name, parameter);
		snprintf(parameter, sizeof(parameter), i ? "result%d" : "result", i);
		print_file(name, parameter);
	}
}

/*
 * "initcall FUNCTION+0x0/0x10 [NAME] returned RESULT after N usecs" (init/main.c trace_initcall_finish_cb); a module
 * whose symbols are trimmed has only an address there, one of the kernel's own initcalls has no name in brackets.
 */
static void print_initcalls(void)
{
	int size = klogctl(3, log_buffer, sizeof(log_buffer) - 1);

	if (size < 0)
		finish("failed: cannot read the kernel's log");
	log_buffer[size] = 0;
	for (char *line = strtok(log_buffer, "\n"); line; line = strtok(NULL, "\n")) {
		char *call = strstr(line, "initcall "), *returned = strstr(line, " returned "), *name;
		long long microseconds;
		int result;

		if (!call || !returned || sscanf(returned, " returned %d after %lld usecs", &result, &microseconds) != 2)
			continue;
		*returned = 0;
		name = strchr(call, '[');
		if (name)
			printf("initcall %.*s %d %lld\n", (int)strcspn(name + 1, " ]"), name + 1, result, microseconds);
		else if (!strncmp(call, "initcall 0x", 11))
			printf("initcall ? %d %lld\n", result, microseconds);
	}
}

static void print_symbols(void)
{
	FILE *file = fopen("/proc/kallsyms", "r");
	char line[512], address[32], kind, name[256];

	while (file && fgets(line, sizeof(line), file))
		if (!strchr(line, '[') && sscanf(line, "%31s %c %255s", address, &kind, name) == 3 && strchr("tTwW", kind))
			printf("symbol %s %s\n", address, name);
	if (file)
		fclose(file);
}

static int count_modules(void)
{
	FILE *file = fopen("/proc/modules", "r");
	int lines = 0, c;

	while (file && (c = fgetc(file)) != EOF)
		lines += c == '\n';
	if (file)
		fclose(file);
	return lines;
}

/* As megamod's loader does: no module's init may start a modprobe. */
static void stop_modprobe(void)
{
	int fd = open("/proc/sys/kernel/modprobe", O_WRONLY);

	if (fd < 0 || write(fd, "\n", 1) != 1)
		finish("failed: cannot empty /proc/sys/kernel/modprobe");
	close(fd);
}

int main(void)
{
	long before, after;
	int count;

	mkdir("/proc", 0755);
	mkdir("/sys", 0755);
	if (mount("proc", "/proc", "proc", 0, NULL) || mount("sysfs", "/sys", "sysfs", 0, NULL))
		finish("failed: mount");
	stop_modprobe();
	count = read_list();
	settle();
	before = available();
	load_all(count);
	after = available();
	for (int i = 0; i < count; i++)
		printf("load %s %lld %d\n", modules[i].name, modules[i].nanoseconds, modules[i].error);
	printf("memory %ld %ld\nmodules %d\n", before, after, count_modules());
	for (int i = 0; i < count; i++)
		print_parameters(modules[i].name);
	print_initcalls();
	if (getenv("show_symbols"))
		print_symbols();
	finish("end");
}
