/*
 * waves.h: modules loaded by several threads in waves, for waves.c and roots.c.
 *
 * /list has lines "PATH WAVE", in the order of the waves from 0: a module needs only what is in earlier waves. Threads
 * (threads=N on the kernel command line) take the modules of a wave one by one, each with one finit_module, and wait
 * for each other at its end.
 */
#ifndef WAVES_H
#define WAVES_H

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
static int count, next, threads;
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

/* Reads the list and the number of threads; ends the guest if there is nothing to do. */
static void prepare_waves(void)
{
	const char *wanted = getenv("threads");

	threads = wanted ? atoi(wanted) : 1;
	count = read_list();
	if (!count || threads < 1 || threads > THREADS)
		finish("failed: nothing to do");
	pthread_barrier_init(&barrier, NULL, threads);
}

/* Starts the threads from number *first* on; a program whose own thread works too leaves 0 out. */
static void start_threads(pthread_t *all, int first)
{
	for (int i = first; i < threads; i++)
		if (pthread_create(&all[i], NULL, work, NULL))
			finish("failed: a thread");
}

static void join_threads(pthread_t *all, int first)
{
	for (int i = first; i < threads; i++)
		pthread_join(all[i], NULL);
}

#endif
