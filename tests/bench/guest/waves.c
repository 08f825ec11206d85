/*
 * waves.c: modules loaded by several threads (waves.h), as Android's first stage does. Linked statically, it is /init.
 * Then it prints what guest.h names, and
 *
 *   elapsed NANOSECONDS            from before the first call to after the last
 *   load NAME ERRNO                a call's result
 */
#include "waves.h"

int main(void)
{
	struct memory before, after;
	pthread_t others[THREADS];
	long long start, elapsed;

	mount_all();
	stop_modprobe();
	prepare_waves();
	settle();
	before = memory_now();
	start = now();
	start_threads(others, 1);
	work(NULL);
	join_threads(others, 1);
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
