/*
 * loadall.c: the whole user space of a load measurement. Linked statically, it is /init.
 *
 * Loads the modules that /list names, in that order, one finit_module each, and times each call with CLOCK_MONOTONIC.
 * Nothing is printed before the last call has returned. Then, one line each on the console:
 *
 *   load NAME NANOSECONDS ERRNO    a call's time and result (0 or positive errno)
 *   parameter NAME FILE VALUE      nanoseconds* and result* of a megamodule
 *   symbol ADDRESS NAME            with show_symbols=1 on the kernel command line: the kernel's functions
 *
 * and what guest.h names. A file whose name does not end in .ko is compressed: the kernel unpacks it.
 */
#include "guest.h"

#define MODULES 1024
/* include/uapi/linux/module.h, since 5.17. */
#define MODULE_INIT_COMPRESSED_FILE 4

struct module {
	char path[128];
	const char *name;
	int fd;
	int error;
	long long nanoseconds;
};

static struct module modules[MODULES];

/* where.py counts instructions between these two. */
__attribute__((noinline)) void measure_begin(void)
{
	__asm__ volatile("nop");
}

__attribute__((noinline)) void measure_end(void)
{
	__asm__ volatile("nop; nop");
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

static int is_packed(const struct module *module)
{
	return strcmp(module->path + strlen(module->path) - 3, ".ko") != 0;
}

static void load_all(int count)
{
	for (int i = 0; i < count; i++) {
		struct module *module = &modules[i];
		long long start = now();
		long result;

		measure_begin();
		result = syscall(SYS_finit_module, module->fd, "", is_packed(module) ? MODULE_INIT_COMPRESSED_FILE : 0);
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

static void print_symbols(void)
{
	FILE *file = fopen("/proc/kallsyms", "r");
	char line[512], address[32], kind, name[256];

	while (file && fgets(line, sizeof(line), file))
		if (!strchr(line, '[') && sscanf(line, "%31s %c %255s", address, &kind, name) == 3 &&
		    strchr("tTwW", kind))
			printf("symbol %s %s\n", address, name);
	if (file)
		fclose(file);
}

int main(void)
{
	struct memory before, after;
	int count;

	mount_all();
	stop_modprobe();
	count = read_list();
	settle();
	before = memory_now();
	load_all(count);
	after = memory_now();
	for (int i = 0; i < count; i++)
		printf("load %s %lld %d\n", modules[i].name, modules[i].nanoseconds, modules[i].error);
	print_memory(before, after);
	for (int i = 0; i < count; i++)
		print_parameters(modules[i].name);
	print_initcalls();
	if (getenv("show_symbols"))
		print_symbols();
	finish("end");
}
