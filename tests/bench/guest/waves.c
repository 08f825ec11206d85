/*
 * waves.c: modules loaded by several threads, as Android's first stage does. Linked statically, it is /init.
 *
 * /list has lines "PATH WAVE", in the order of the waves from 0: a module needs only what is in earlier waves. Threads
 * (threads=N on the kernel command line) take the modules of a wave one by one, each with one finit_module, and wait
 * for each other at its end. Then it prints what guest.h names, and
 *
 *   elapsed NANOSECONDS            from before the first call to after the last
 *   load NAME ERRNO                a call's result
 */
#include "guest.h"

#include <pthread.h>

#define MODULES 1024
#define THREADS 16

struct module {
	char path[128];
	int wave;
	int fd;
	int error;
};

static struct module modules[MODULES];
static int count, next;
static pthread_barrier_t barrier;

static int read_list(void)
{
	FILE *file = fopen("/list", "r");
	int read = 0;

	if (!file)
		finish("failed: no /list");
	while (read < MODULES && fscanf(file, "%127s %d", modules[read].path, &modules[read].wave) == 2) {
		modules[read].fd = open(modules[read].path, O_RDONLY | O_CLOEXEC);
		if (modules[read++].fd < 0)
			finish("failed: a module is not there");
	}
	fclose(file);
	return read;
}

/* The next module of a wave, or -1: `next` moves only over modules of the wave, so the barrier finds it at the next
 * one. */
static int take(int wave)
{
	int mine = __atomic_load_n(&next, __ATOMIC_SEQ_CST);

	while (mine < count && modules[mine].wave == wave)
		if (__atomic_compare_exchange_n(&next, &mine, mine + 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
			return mine;
	return -1;
}

static void *work(void *unused)
{
	for (int wave = 0; wave <= modules[count - 1].wave; wave++) {
		for (int i = take(wave); i >= 0; i = take(wave))
			modules[i].error = syscall(SYS_finit_module, modules[i].fd, "", 0) ? errno : 0;
		pthread_barrier_wait(&barrier);
	}
	return NULL;
}

int main(void)
{
	const char *wanted = getenv("threads");
	int threads = wanted ? atoi(wanted) : 1;
	struct memory before, after;
	pthread_t others[THREADS];
	long long start, elapsed;

	mount_all();
	stop_modprobe();
	count = read_list();
	if (!count || threads < 1 || threads > THREADS)
		finish("failed: nothing to do");
	settle();
	before = memory_now();
	pthread_barrier_init(&barrier, NULL, threads);
	start = now();
	for (int i = 1; i < threads; i++)
		if (pthread_create(&others[i], NULL, work, NULL))
			finish("failed: a thread");
	work(NULL);
	for (int i = 1; i < threads; i++)
		pthread_join(others[i], NULL);
	elapsed = now() - start;
	settle();
	after = memory_now();
	printf("elapsed %lld\n", elapsed);
	print_memory(before, after);
	for (int i = 0; i < count; i++)
		printf("load %s %d\n", strrchr(modules[i].path, '/') + 1, modules[i].error);
	print_initcalls();
	finish("end");
}
