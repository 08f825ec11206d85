/*
 * guest.h: what the guests' programs share. Each is one file and linked statically; it is /init and prints what it
 * found, one line each, on the console:
 *
 *   memory BEFORE AFTER            free memory in KiB
 *   vmalloc BEFORE AFTER           VmallocUsed in KiB
 *   modules COUNT                  lines of /proc/modules
 *   initcall NAME RESULT USECS     with initcall_debug on the kernel command line; NAME is ? where no symbol is left
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

/* Not every program uses all of it. */
#define UNUSED __attribute__((unused))

static char log_buffer[1 << 24];

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
 * threads (ecdh_generic's self-tests, 0.2 s on 6.12): it would run during the next call, or the next init, as it
 * happens. settle=MILLISECONDS on the kernel command line is for runs in real time.
 */
static void settle(void)
{
	const char *text = getenv("settle");
	long ms = text ? atol(text) : 1000;
	struct timespec time = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 };

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

static long vmalloc_used(void)
{
	return sum_lines("/proc/meminfo", "VmallocUsed:");
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
static UNUSED void stop_modprobe(void)
{
	int fd = open("/proc/sys/kernel/modprobe", O_WRONLY);

	if (fd < 0 || write(fd, "\n", 1) != 1)
		finish("failed: cannot empty /proc/sys/kernel/modprobe");
	close(fd);
}

/*
 * "initcall FUNCTION+0x0/0x10 [NAME] returned RESULT after N usecs" (init/main.c trace_initcall_finish_cb); a module
 * whose symbols are trimmed has only an address there, one of the kernel's own initcalls has no name in brackets.
 */
static UNUSED void print_initcalls(void)
{
	int size = klogctl(3, log_buffer, sizeof(log_buffer) - 1);

	if (size < 0)
		finish("failed: cannot read the kernel's log");
	log_buffer[size] = 0;
	for (char *line = strtok(log_buffer, "\n"); line; line = strtok(NULL, "\n")) {
		char *call = strstr(line, "initcall "), *returned = strstr(line, " returned "), *name;
		long long microseconds;
		int result;

		if (!call || !returned ||
		    sscanf(returned, " returned %d after %lld usecs", &result, &microseconds) != 2)
			continue;
		*returned = 0;
		name = strchr(call, '[');
		if (name)
			printf("initcall %.*s %d %lld\n", (int)strcspn(name + 1, " ]"), name + 1, result, microseconds);
		else if (!strncmp(call, "initcall 0x", 11))
			printf("initcall ? %d %lld\n", result, microseconds);
	}
}

static void mount_all(void)
{
	mkdir("/proc", 0755);
	mkdir("/sys", 0755);
	if (mount("proc", "/proc", "proc", 0, NULL) || mount("sysfs", "/sys", "sysfs", 0, NULL))
		finish("failed: mount");
}

/* Free memory before and after what is measured. */
struct memory {
	long free;
	long vmalloc;
};

static UNUSED struct memory memory_now(void)
{
	return (struct memory){ .free = available(), .vmalloc = vmalloc_used() };
}

static UNUSED void print_memory(struct memory before, struct memory after)
{
	printf("memory %ld %ld\nvmalloc %ld %ld\nmodules %d\n", before.free, after.free, before.vmalloc, after.vmalloc,
	       count_modules());
}
