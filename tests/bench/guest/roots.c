/*
 * roots.c: modules loaded by several threads in waves (waves.h), and beside them the root is looked for: a look at
 * /proc/partitions each millisecond, a mount as ext4 of each device that has come. Linked statically, it is /init.
 *
 *   elapsed NANOSECONDS            from the program's start until the root is mounted
 *   after NANOSECONDS              until the last call has come back
 *   device NAME PATH               each disk and network device five seconds later, with its place in sysfs
 */
#include "waves.h"

#include <dirent.h>

static int has_ext4(void)
{
	FILE *file = fopen("/proc/filesystems", "r");
	char line[64];
	int found = 0;

	while (file && !found && fgets(line, sizeof(line), file))
		found = !strcmp(line, "\text4\n");
	if (file)
		fclose(file);
	return found;
}

/* Each device is tried once when it has come, as whoever hears of it would. */
static int try_new(void)
{
	static char tried[64][64];
	static int known;
	FILE *file = fopen("/proc/partitions", "r");
	char line[256], name[64], path[80];
	int mounted = 0;

	while (file && !mounted && known < 64 && fgets(line, sizeof(line), file)) {
		int seen = 0;

		if (sscanf(line, "%*d %*d %*d %63s", name) != 1)
			continue;
		for (int i = 0; i < known; i++)
			seen |= !strcmp(tried[i], name);
		if (seen)
			continue;
		strcpy(tried[known++], name);
		snprintf(path, sizeof(path), "/dev/%s", name);
		mounted = !mount(path, "/mnt", "ext4", MS_RDONLY, "");
	}
	if (file)
		fclose(file);
	return mounted;
}

static void list(const char *folder)
{
	DIR *open = opendir(folder);
	struct dirent *entry;
	char path[512], target[512];

	while (open && (entry = readdir(open))) {
		ssize_t size;

		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
		size = readlink(path, target, sizeof(target) - 1);
		if (size < 0)
			continue;
		target[size] = 0;
		if (strstr(target, "/pci"))
			printf("device %s %s\n", entry->d_name, strstr(target, "/pci"));
	}
	if (open)
		closedir(open);
}

int main(void)
{
	struct timespec tick = { .tv_nsec = 1000000 }, while_after = { .tv_sec = 5 };
	pthread_t others[THREADS];
	long long start = now(), elapsed = 0;

	mount_all();
	mount("devtmpfs", "/dev", "devtmpfs", 0, "");
	stop_modprobe();
	prepare_waves();
	start_threads(others, 0);
	for (int tries = 0; tries < 60000 && !(has_ext4() && try_new()); tries++)
		nanosleep(&tick, NULL);
	elapsed = now() - start;
	join_threads(others, 0);
	printf("elapsed %lld\nafter %lld\n", elapsed, now() - start);
	nanosleep(&while_after, NULL);
	list("/sys/class/block");
	list("/sys/class/net");
	finish("end");
}
