/*
 * limit.c: what a load of /blob could not do without. Linked statically, it is /init.
 *
 * Reads the file into memory that is there already, and copies it once more, as the kernel does: from the file into a
 * buffer (kernel/module/main.c finit_module(), fs/kernel_read_file.c), from there to where the module will live
 * (move_module()). Prints
 *
 *   time read NANOSECONDS
 *   time copy NANOSECONDS
 *   end
 */
#include "guest.h"

#define ROOM (1 << 28)

int main(void)
{
	char *first = malloc(ROOM), *second = malloc(ROOM);
	int fd = open("/blob", O_RDONLY);
	struct stat status;
	long long start, read_time, copy_time;
	long size = 0, got;

	mount_all();
	if (!first || !second || fd < 0 || fstat(fd, &status) || status.st_size > ROOM)
		finish("failed: /blob");
	memset(first, 1, status.st_size);
	memset(second, 1, status.st_size);
	settle();
	start = now();
	while ((got = read(fd, first + size, status.st_size - size)) > 0)
		size += got;
	read_time = now() - start;
	start = now();
	memcpy(second, first, size);
	/* The copy is to be made: somebody could look at it. */
	__asm__ volatile("" : : "r"(second) : "memory");
	copy_time = now() - start;
	if (size != status.st_size)
		finish("failed: /blob is shorter");
	printf("time read %lld\ntime copy %lld\n", read_time, copy_time);
	finish("end");
}
