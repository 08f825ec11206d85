/*
 * ticker.c: a process that wants to run every millisecond, and remembers when it did not. Linked statically, it is
 * /sbin/init of a root whose initramfs loads deferred stages meanwhile.
 *
 * It sleeps with clock_nanosleep to absolute times 1 ms apart; a gap is the time between two wake-ups. After 100 ticks
 * it makes /run/ticking, which a `path` trigger can wait for. It ends 500 ms after /run/megamod/status says that every
 * stage is done, or after the milliseconds of `ticker=` on the kernel command line. Then it prints, one line each:
 *
 *   ticks COUNT OVER2 OVER10       wake-ups, gaps of more than 2 ms, of more than 10 ms
 *   gap MICROSECONDS AT            the longest gaps, longest first; AT is their start on the kernel's clock, in us
 *   status LINE                    of /run/megamod/status
 *   end
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <time.h>
#include <unistd.h>

#define TICK 1000000LL
#define GAPS 8
#define SECOND 1000000000LL

struct gap {
	long long length, start;
};

static struct gap longest[GAPS];

static long long now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * SECOND + time.tv_nsec;
}

static size_t read_text(const char *path, char *text, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t length = fd < 0 ? 0 : read(fd, text, size - 1);

	if (fd >= 0)
		close(fd);
	text[length > 0 ? length : 0] = 0;
	return length > 0 ? length : 0;
}

static int all_done(void)
{
	char text[4096];

	return read_text("/run/megamod/status", text, sizeof(text)) && !strstr(text, " waiting ") &&
	       !strstr(text, " loading ");
}

static long long wanted_nanoseconds(void)
{
	char text[4096], *word;

	read_text("/proc/cmdline", text, sizeof(text));
	word = strstr(text, "ticker=");
	return (word ? atoll(word + 7) : 5000) * 1000000LL;
}

static void remember(long long length, long long start)
{
	int i = GAPS - 1;

	if (length <= longest[i].length)
		return;
	for (; i > 0 && longest[i - 1].length < length; i--)
		longest[i] = longest[i - 1];
	longest[i] = (struct gap){ length, start };
}

int main(void)
{
	long long last = now(), end, ticks = 0, over2 = 0, over10 = 0;
	char text[4096], *line;

	mount("proc", "/proc", "proc", 0, NULL);
	end = last + wanted_nanoseconds();
	while (last < end) {
		long long next = last + TICK, woken;
		struct timespec time = { next / SECOND, next % SECOND };

		while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL))
			;
		woken = now();
		remember(woken - last, last);
		over2 += woken - last > 2 * TICK;
		over10 += woken - last > 10 * TICK;
		last = woken;
		if (++ticks == 100)
			close(open("/run/ticking", O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
		if (ticks % 100 == 0 && end > last + SECOND / 2 && all_done())
			end = last + SECOND / 2;
	}
	printf("\nticks %lld %lld %lld\n", ticks, over2, over10);
	for (int i = 0; i < GAPS; i++)
		printf("gap %lld %lld\n", longest[i].length / 1000, longest[i].start / 1000);
	read_text("/run/megamod/status", text, sizeof(text));
	for (line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
		printf("status %s\n", line);
	printf("end\n");
	fflush(stdout);
	sync();
	reboot(RB_POWER_OFF);
	for (;;)
		pause();
}
